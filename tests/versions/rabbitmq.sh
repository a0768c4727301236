#!/bin/bash
# usage: rabbitmq.sh VERSION DESTINATION
# Unpacks RabbitMQ 3.10, 4.0 or 4.3 with its own Erlang and C library from Debian's packages, without root and without
# touching what is installed. The newest suite moves: what it holds is printed. Needs apt-get and dpkg.
#
# The mirror is that of this system if it is a Debian, else PGOUTBOX_TEST_MIRROR or the public one.
set -euo pipefail
version=$1 destination=$2

case $version in
3.10) suite=bookworm ;;
4.0) suite=trixie ;;
4.3) suite=forky ;;
*)
    echo "rabbitmq.sh: no Debian suite is known for RabbitMQ $version" >&2
    exit 1
    ;;
esac
for tool in apt-get dpkg; do
    command -v $tool >/dev/null || {
        echo "rabbitmq.sh: needs $tool" >&2
        exit 1
    }
done

mirror() {
    [ -z "${PGOUTBOX_TEST_MIRROR:-}" ] || {
        echo "$PGOUTBOX_TEST_MIRROR"
        return
    }
    local found
    found=$({ sed -n 's/^URIs: *\([^ ]*\).*/\1/p' /etc/apt/sources.list.d/*.sources
        sed -n 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.list
    } 2>/dev/null | grep -E '/debian/?$' | head -n 1) || true
    echo "${found:-http://deb.debian.org/debian}"
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r $keyring ] || {
    echo "rabbitmq.sh: needs $keyring (package debian-archive-keyring)" >&2
    exit 1
}

mkdir -p "$destination"
destination=$(cd "$destination" && pwd)
apt=$destination/.apt
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
cat >"$apt/debian.sources" <<TEXT
Types: deb
URIs: $(mirror)
Suites: $suite
Components: main
Signed-By: $keyring
TEXT
# An empty status: every package of the closure is fetched, the C library too.
cat >"$apt/apt.conf" <<TEXT
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/debian.sources";
Dir::Etc::sourceparts "-";
APT::Sandbox::User "$(id -un)";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
TEXT
export APT_CONFIG=$apt/apt.conf
apt-get -qq update
apt-get -qq -y --download-only install rabbitmq-server >/dev/null
for package in "$apt"/cache/archives/*.deb; do
    dpkg -x "$package" "$destination"
done

# Erlang's programs were linked against a C library that may be newer than this system's: each is started by its own.
# Older suites keep theirs in /lib, newer ones in /usr/lib.
loader=$(find "$destination/lib" "$destination/usr/lib" -name 'ld-linux-*.so.*' -print -quit 2>/dev/null) || true
[ -n "$loader" ] || {
    echo "rabbitmq.sh: the packages hold no dynamic loader" >&2
    exit 1
}
lib=$(dirname "$loader"):$destination/usr/lib/$(basename "$(dirname "$loader")")
erlang=$destination/usr/lib/erlang
find "$erlang"/bin "$erlang"/erts-*/bin "$erlang"/lib/*/priv/bin -maxdepth 1 -type f 2>/dev/null |
    while read -r program; do
        if head -c 4 "$program" | grep -q ELF; then
            mv "$program" "$program.real"
            printf '#!/bin/sh\nexec %s --library-path %s --argv0 "$0" %s "$@"\n' \
                "$loader" "$lib" "$program.real" >"$program"
            chmod +x "$program"
        fi
    done
sed -i "s#/usr/lib/erlang#$erlang#g" "$erlang"/bin/erl "$erlang"/erts-*/bin/erl "$erlang"/erts-*/bin/start 2>/dev/null || true
basename "$(ls -d "$destination"/usr/lib/rabbitmq/lib/rabbitmq_server-*)"
