#!/bin/sh
# Installs the packages of target/dist on bare systems, uses them, removes them, and looks whether anything is left.
# As root, with debootstrap and rpm: bare Debian systems are made below target/dist/roots, and kept for the next time.
#
#   docker/dist/installed.sh                    on Debian 12 and 13
#   docker/dist/installed.sh bookworm
set -eu

cd "$(dirname "$0")/../.."
out=$(cd "${CARGO_TARGET_DIR:-target}/dist" && pwd)
roots=${PGOUTBOX_DIST_ROOTS:-$(dirname "$out")/roots}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# What a package brings, wherever it is installed.
wanted="usr/bin/pgoutbox usr/lib/systemd/system/pgoutbox.service usr/share/man/man1/pgoutbox.1 etc/pgoutbox/pgoutbox.toml
    usr/share/bash-completion/completions/pgoutbox usr/share/doc/pgoutbox/pgoutbox.cdx.json usr/share/doc/pgoutbox/THIRD-PARTY-LICENSES"

fail() {
    echo "dist: $*" >&2
    exit 1
}

bare() { # a suite
    [ -x "$roots/$1/usr/bin/dpkg" ] && return
    mkdir -p "$roots"
    # Where its own extractor stumbles over files that are there already, ar and tar do not.
    for extractor in dpkg-deb ar; do
        debootstrap --variant=minbase --extractor="$extractor" "$1" "$roots/$1" >"$roots/$1.log" 2>&1 && return
        rm -rf "${roots:?}/$1"
    done
    fail "no root of $1: see $roots/$1.log"
}

present() { # a root
    for path in $wanted; do
        # Man pages may be compressed.
        [ -e "$1/$path" ] || [ -e "$1/$path.gz" ] || fail "$1: $path is missing"
    done
    told=$(chroot "$1" pgoutbox --version)
    [ "$told" = "pgoutbox $version" ] || fail "$1: it says $told"
    # Settings are read, and what is wrong is told.
    chroot "$1" pgoutbox config --check >/dev/null 2>&1 || chroot "$1" pgoutbox config >/dev/null 2>&1 || fail "$1: pgoutbox config fails"
    grep -q '^ExecStart=/usr/bin/pgoutbox run$' "$1/usr/lib/systemd/system/pgoutbox.service" || fail "$1: the unit runs another program"
    # No secret is anybody's to read, and the configuration is.
    [ "$(stat -c %a "$1/etc/pgoutbox/pgoutbox.toml")" = 644 ] || fail "$1: the configuration cannot be read"
}

gone() { # a root
    left=$(find "$1/etc" "$1/usr" "$1/var/lib/systemd" "$1/lib/systemd" -name '*pgoutbox*' 2>/dev/null || true)
    [ -z "$left" ] || fail "$1: these are left: $left"
}

for suite in ${*:-bookworm trixie}; do
    bare "$suite"
    root=$roots/$suite
    cp "$out"/pgoutbox_*.deb "$root/tmp/pgoutbox.deb"
    chroot "$root" dpkg -i /tmp/pgoutbox.deb >/dev/null
    present "$root"
    # What somebody has written survives a new version, and its removal.
    echo '# kept' >>"$root/etc/pgoutbox/pgoutbox.toml"
    chroot "$root" dpkg -i /tmp/pgoutbox.deb >/dev/null
    grep -q '^# kept$' "$root/etc/pgoutbox/pgoutbox.toml" || fail "$suite: the configuration was replaced"
    chroot "$root" dpkg -r pgoutbox >/dev/null 2>&1
    [ ! -e "$root/usr/bin/pgoutbox" ] || fail "$suite: the program is left"
    grep -q '^# kept$' "$root/etc/pgoutbox/pgoutbox.toml" || fail "$suite: the configuration went with the program"
    chroot "$root" dpkg -P pgoutbox >/dev/null 2>&1
    rm -f "$root/tmp/pgoutbox.deb"
    gone "$root"
    echo "dist: $suite: the .deb is installed, updated, removed and purged"

    # The .rpm, by its own tool, into the same system: libc has another name there.
    by_rpm() { rpm --root "$root" --dbpath /var/lib/rpm --nodeps "$@"; }
    by_rpm -i --ignoresize "$out"/pgoutbox-*.rpm
    present "$root"
    by_rpm -V --nomtime --nouser --nogroup pgoutbox || fail "$suite: the .rpm is not as it was made"
    by_rpm -e pgoutbox
    gone "$root"
    # What somebody has written stays.
    by_rpm -i --ignoresize "$out"/pgoutbox-*.rpm
    echo '# kept' >>"$root/etc/pgoutbox/pgoutbox.toml"
    by_rpm -U --force --ignoresize "$out"/pgoutbox-*.rpm
    by_rpm -e pgoutbox
    grep -q '^# kept$' "$root/etc/pgoutbox/pgoutbox.toml" || fail "$suite: the configuration went with the .rpm"
    rm -rf "${root:?}/var/lib/rpm" "$root/etc/pgoutbox"
    echo "dist: $suite: the .rpm is installed, updated and removed"

    # The tarball, where there is no package.
    tar -C "$root/opt" -xzf "$out"/pgoutbox-*.tar.gz
    chroot "$root" sh -c '/opt/pgoutbox-*/bin/pgoutbox --version' >/dev/null || fail "$suite: the tarball's program does not run"
    rm -r "$root"/opt/pgoutbox-*
    echo "dist: $suite: the tarball's program runs"
done
(cd "$out" && sha256sum --check --quiet SHA256SUMS) || fail "the checksums are wrong"
