#!/bin/sh
# Makes the container image without a daemon, in target/dist/image (an OCI layout), where gcr.io is out of reach or there is no Docker:
# the program of dist.sh on the Debian packages that a distroless image of C consists of (libc, libgcc, certificates, time zones), and
# nothing else: no shell, no package manager. Then runs it as its user, on a root that cannot be written to.
#
#   docker/dist/image.sh       as root; needs apt-get, dpkg-deb, umoci and jq
#
# `buildah pull oci:target/dist/image:VERSION` or `skopeo copy oci:… docker://…` take it from there. docker/Dockerfile is the same by Docker.
set -eu

cd "$(dirname "$0")/../.."
out=$(cd "${CARGO_TARGET_DIR:-target}/dist" && pwd)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
most=$((45 * 1024 * 1024))

fail() {
    echo "image: $*" >&2
    exit 1
}
for tool in umoci jq dpkg-deb apt-get; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install umoci jq"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root" "$work/packages"
# Whoever may not write there downloads as somebody else.
chmod 755 "$work" "$work/packages"
chown _apt "$work/packages" 2>/dev/null || true
(cd "$work/packages" && apt-get -q download base-files netbase libc6 libgcc-s1 ca-certificates tzdata >/dev/null)
for package in "$work"/packages/*.deb; do
    dpkg-deb -x "$package" "$root"
done
# What only people and package managers read; the copyrights stay.
find "$root/usr/share/doc" ! -type d ! -name copyright -delete
rm -rf "$root/usr/share/man" "$root/usr/share/lintian" "$root/usr/share/bug" "$root/usr/share/info" "$root/usr/sbin" "$root/sbin" \
    "$root/usr/share/zoneinfo/right" "$root/usr/lib/x86_64-linux-gnu/gconv" "$root/usr/lib/x86_64-linux-gnu/audit" "$root/usr/bin" "$root/bin"
find "$root" -depth -type d -empty -path '*/usr/share/*' -delete
# As update-ca-certificates would make it.
mkdir -p "$root/etc/ssl/certs" "$root/tmp" "$root/home/nonroot"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
chmod 1777 "$root/tmp"
printf 'root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n' >"$root/etc/group"
chown 65532:65532 "$root/home/nonroot"
# From the packages, so that nothing of the build is in it.
install -D -m 755 "$out/stage/bin/pgoutbox" "$root/usr/local/bin/pgoutbox"
mkdir -p "$root/usr/share/doc/pgoutbox"
cp "$out/stage/THIRD-PARTY-LICENSES" "$out/stage/LICENSE-MIT" "$out/stage/LICENSE-APACHE" "$root/usr/share/doc/pgoutbox/"
find "$root" -exec touch -h -d "@$epoch" {} +

rm -rf "$out/image"
umoci init --layout "$out/image"
umoci new --image "$out/image:$version"
umoci insert --image "$out/image:$version" "$root" /
umoci config --image "$out/image:$version" --no-history \
    --config.user 65532:65532 --config.entrypoint /usr/local/bin/pgoutbox --config.cmd run --config.stopsignal SIGTERM \
    --config.env 'PGOUTBOX_HTTP__ADDRESS=[::]:8976' --config.exposedports 8976 \
    --config.label "org.opencontainers.image.title=pgoutbox" --config.label "org.opencontainers.image.version=$version" \
    --config.label "org.opencontainers.image.licenses=MIT OR Apache-2.0"
umoci gc --layout "$out/image"

# As it is pulled, and as it is unpacked.
pulled=$(du -sb "$out/image/blobs" | cut -f1)
umoci unpack --image "$out/image:$version" "$work/bundle" >/dev/null
unpacked=$(du -sb "$work/bundle/rootfs" | cut -f1)
[ "$unpacked" -le "$most" ] || fail "$unpacked bytes unpacked, more than $most"

# As its user, where nothing can be written.
bundle=$work/bundle/rootfs
told=$(unshare --mount sh -c "mount --bind '$bundle' '$bundle' && mount -o remount,bind,ro '$bundle' \
    && ! touch '$bundle/home/nonroot/x' 2>/dev/null && exec chroot --userspec=65532:65532 '$bundle' /usr/local/bin/pgoutbox --version")
[ "$told" = "pgoutbox $version" ] || fail "it says: $told"
[ ! -e "$bundle/bin/sh" ] && [ ! -e "$bundle/usr/bin/dpkg" ] || fail "a shell or a package manager is in it"
jq -e '.process.user.uid == 65532 and (.process.args | join(" ")) == "/usr/local/bin/pgoutbox run"' "$work/bundle/config.json" >/dev/null || fail "not its user, or not its command"
echo "image: $version, $((pulled / 1024)) KiB to pull, $((unpacked / 1024)) KiB unpacked; it runs as 65532 on a root that is read-only"
