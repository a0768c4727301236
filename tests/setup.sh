#!/bin/sh
# Makes sure that the servers the tests and the demo start for themselves are installed:
# Postgres 14 or newer (postgres, initdb) and rabbitmq-server. For the tests, besides: pgbouncer, promtool (package
# prometheus), which checks metrics and rules, a headless Chromium, which looks at the console, npm, by which a
# library that writes an outbox of its own is installed, and Python, a JDK and Ruby, for the examples and Debezium.
#
# Nothing happens, and no root is needed, if they are there. Otherwise they come from the distribution's own packages,
# on Debian and Ubuntu. Nothing is started and no database cluster is made: the tests do that, in private.
#
# Elsewhere: PGOUTBOX_TEST_POSTGRES names a bin directory, PGOUTBOX_TEST_RABBITMQ the root of an unpacked tree.
set -eu

oldest=14

recent_postgres() { # a bin directory
    [ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
    major=$("$1/postgres" --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    [ "${major:-0}" -ge "$oldest" ]
}

have_postgres() {
    if [ -n "${PGOUTBOX_TEST_POSTGRES:-}" ]; then
        recent_postgres "$PGOUTBOX_TEST_POSTGRES"
        return
    fi
    command -v pg_config >/dev/null && recent_postgres "$(pg_config --bindir)" && return
    command -v postgres >/dev/null && recent_postgres "$(dirname "$(command -v postgres)")" && return
    for bin in /usr/lib/postgresql/*/bin; do
        recent_postgres "$bin" && return
    done
    return 1
}

have_rabbitmq() {
    if [ -n "${PGOUTBOX_TEST_RABBITMQ:-}" ]; then
        [ -d "$PGOUTBOX_TEST_RABBITMQ/usr/lib/rabbitmq/lib" ]
        return
    fi
    ls /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server >/dev/null 2>&1 || command -v rabbitmq-server >/dev/null
}

have_pgbouncer() {
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ]
}

have_chromium() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
}

have_docker() {
    command -v docker >/dev/null && docker info >/dev/null 2>&1
}

missing() {
    packages=
    have_postgres || packages="postgresql"
    have_rabbitmq || packages="$packages rabbitmq-server"
    # The demo needs no more.
    if [ -z "$is_demo" ]; then
        have_pgbouncer || packages="$packages pgbouncer"
        command -v promtool >/dev/null || packages="$packages prometheus"
        have_chromium || packages="$packages chromium"
        command -v npm >/dev/null || packages="$packages npm"
        # The examples in other languages, and Debezium's engine.
        python3 -c 'import venv, ensurepip' 2>/dev/null || packages="$packages python3-venv"
        command -v javac >/dev/null || packages="$packages default-jdk-headless"
        [ -e /usr/share/java/amqp-client.jar ] || packages="$packages librabbitmq-client-java"
        [ -e /usr/share/java/postgresql.jar ] || packages="$packages libpostgresql-jdbc-java"
        ruby -e 'require "bunny"; require "pg"' 2>/dev/null || packages="$packages ruby ruby-bunny ruby-pg"
    fi
    # Unquoted: no leading space.
    echo $packages
}

give_up() {
    cat >&2 <<TEXT
setup: $1
setup: please install: $packages
  Debian, Ubuntu:  apt-get install $packages   (Ubuntu: Google Chrome instead of chromium)
  Fedora:          dnf install postgresql-server rabbitmq-server pgbouncer golang-github-prometheus chromium npm
  macOS:           brew install postgresql@17 rabbitmq pgbouncer prometheus chromium node
or set PGOUTBOX_TEST_POSTGRES (a bin directory with postgres and initdb, $oldest or newer)
and PGOUTBOX_TEST_RABBITMQ (the root of an unpacked rabbitmq-server with its Erlang).
TEXT
    exit 1
}

is_demo=
[ "${1:-}" != --or-docker ] || is_demo=yes
packages=$(missing)
[ -n "$packages" ] || exit 0

# The demo alone can do with containers.
if [ -n "$is_demo" ] && have_docker; then
    echo "setup: no installed servers ($packages); an existing Docker engine is used" >&2
    exit 0
fi

command -v apt-get >/dev/null || give_up "the servers are missing and this system has no apt-get"
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    give_up "the servers are missing, and installing them needs root"
fi

install() {
    # shellcheck disable=SC2086 # no root needed: no word; several packages: several words
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >&2
}

# Debian starts a service when its package is installed and at each boot, and makes a default cluster: none of it is
# wanted here. A service that was enabled before is somebody else's.
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.conf
enabled() {
    command -v systemctl >/dev/null || return 0
    for unit in rabbitmq-server.service epmd.service epmd.socket pgbouncer.service prometheus.service; do
        ! systemctl is-enabled --quiet "$unit" 2>/dev/null || printf '%s ' "$unit"
    done
}
undo() {
    for unit in $(enabled); do
        case " $before" in
        *" $unit "*) ;;
        *) $as_root systemctl --quiet disable "$unit" >&2 || true ;;
        esac
    done
    [ -z "${made_policy:-}" ] || $as_root rm -f "$policy"
    [ -z "${kept_cluster:-}" ] || $as_root mv -f "$kept_cluster" "$cluster"
}
before=$(enabled)
trap undo EXIT
trap 'exit 1' INT TERM HUP

echo "setup: installing $packages" >&2
# The package lists of a fresh machine are empty or old.
$as_root apt-get update -qq >&2 || echo "setup: apt-get update failed; trying with the lists at hand" >&2

if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
case $packages in
*postgresql*)
    install postgresql-common || give_up "apt-get install failed"
    if [ -e "$cluster" ]; then
        $as_root cp -p "$cluster" "$cluster.before-setup"
        kept_cluster=$cluster.before-setup
        echo 'create_main_cluster = false' | $as_root tee -a "$cluster" >/dev/null
    fi
    ;;
esac
# shellcheck disable=SC2086
install $packages || give_up "apt-get install failed"

packages=$(missing)
[ -z "$packages" ] || give_up "installed, but still not found (this distribution's may be too old)"
