#!/bin/bash
# usage: matrix.sh all | ends
#
# Runs tests/real and the short selection of tests/chaos on other versions of the servers than the ones installed, and
# prints one table. Exit code 1 if anything failed or could not be had.
#
#   all    each Postgres with the installed RabbitMQ, each RabbitMQ with the installed Postgres, everything
#   ends   the oldest and the newest of both, what depends on a server's version; part of `make test`
#
# The versions are unpacked (tests/versions/), without root and beside what is installed, into PGOUTBOX_TEST_CACHE, by
# default in the user's cache directory. PGOUTBOX_VERSIONS=default says that the installed ones are enough, =required that
# "ends" fails too where one cannot be had; otherwise it says so, loudly, and goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

# Exit code for a version that cannot be fetched or unpacked.
CANNOT_BE_HAD=75

POSTGRES="14 15 16 17 18"
RABBITMQ="3.10 4.0 4.3"

# What a server's version may change: SQL and catalogs, the stream, what refuses, how it stops.
DEPENDS="caught_up:: check:: commands:: ddl:: drain:: flow:: parking:: progress:: publication:: recipes::consuming:: refused:: restart:: returns:: roles:: standby:: streams::clients:: streams::consumers:: streams::filters:: streams::kills:: streams::partitioned::"

which=${1:-}
if [ "$which" = ends ] && [ "${PGOUTBOX_VERSIONS:-}" = default ]; then
    echo "matrix: PGOUTBOX_VERSIONS=default: NOT RUN on the oldest and the newest versions" >&2
    exit 0
fi

if [ -n "${PGOUTBOX_TEST_CACHE:-}" ]; then
    cache=$PGOUTBOX_TEST_CACHE
elif [ "$(id -u)" -eq 0 ]; then
    # Postgres then runs as another user, who cannot look into root's home.
    cache=/var/cache/pgoutbox-test
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgoutbox-test
fi
logs=${CARGO_TARGET_DIR:-target}/matrix
mkdir -p "$cache" "$logs"

# Prints where the version is, having unpacked it if need be.
have() { # postgres|rabbitmq VERSION
    local place=$cache/$1-$2
    if [ ! -e "$place/.ready" ]; then
        rm -rf "$place"
        echo "matrix: unpacking $1 $2 into $place" >&2
        "tests/versions/$1.sh" "$2" "$place" >&2 || {
            rm -rf "$place"
            echo "matrix: $1 $2 cannot be had" >&2
            return $CANNOT_BE_HAD
        }
        touch "$place/.ready"
    fi
    echo "$place"
}

header=$(printf '%-10s %-10s %8s %8s %8s  %s' postgres rabbitmq passed failed seconds chaos)
rows=$(mktemp -d)
trap 'rm -rf "$rows"' EXIT

# One pair; "-" is what is installed, or what the environment names. Its line of the table goes into a file, and another
# file says that it failed: pairs may run side by side.
run() { # POSTGRES RABBITMQ CHAOS-ARGUMENTS TEST-FILTER...
    local postgres=$1 rabbitmq=$2 chaos=$3 row place log started passed failed struck
    shift 3
    row=$rows/$(date +%s%N)
    log=$logs/postgres-$postgres-rabbitmq-$rabbitmq.log
    started=$(date +%s)
    echo "matrix: Postgres $postgres, RabbitMQ $rabbitmq (- is the installed one): $log"
    (
        if [ "$postgres" != - ]; then
            place=$(have postgres "$postgres") || exit $CANNOT_BE_HAD
            export PGOUTBOX_TEST_POSTGRES=$place/bin
        fi
        if [ "$rabbitmq" != - ]; then
            place=$(have rabbitmq "$rabbitmq") || exit $CANNOT_BE_HAD
            export PGOUTBOX_TEST_RABBITMQ=$place
        fi
        status=0
        cargo test --locked --package pgoutbox --test real -- "$@" || status=1
        [ "$chaos" = - ] || cargo test --locked --package pgoutbox --test chaos -- $chaos || status=1
        exit $status
    ) >"$log" 2>&1 || {
        if [ $? -eq $CANNOT_BE_HAD ] && [ "$which" = ends ] && [ "${PGOUTBOX_VERSIONS:-}" != required ]; then
            echo "matrix: NOT RUN on Postgres $postgres, RabbitMQ $rabbitmq: they cannot be had here" >&2
            printf '%-10s %-10s NOT RUN: cannot be had here\n' "$postgres" "$rabbitmq" >"$row.row"
            return
        fi
        touch "$row.failed"
        echo "matrix: Postgres $postgres, RabbitMQ $rabbitmq FAILED: $log" >&2
        grep -E '^test .* FAILED|BROKEN|cannot be had|^error' "$log" >&2 || tail -n 20 "$log" >&2
    }
    passed=$(sed -n 's/^test result:.* \([0-9]*\) passed.*/\1/p' "$log")
    failed=$(sed -n 's/^test result:.* \([0-9]*\) failed.*/\1/p' "$log")
    struck=$(grep -c '  kept$' "$log") || true
    printf '%-10s %-10s %8s %8s %8s  %s\n' "$postgres" "$rabbitmq" "${passed:-none}" "${failed:-?}" \
        $(($(date +%s) - started)) "$struck kept, $(grep -c ' BROKEN, ' "$log" || true) broken" >"$row.row"
}

case $which in
all)
    for version in $POSTGRES; do run "$version" - "" ""; done
    for version in $RABBITMQ; do run - "$version" "" ""; done
    ;;
ends)
    # Side by side: what they do most is wait.
    # shellcheck disable=SC2086 # a list of filters
    for pair in "${POSTGRES%% *} ${RABBITMQ%% *}" "${POSTGRES##* } ${RABBITMQ##* }"; do
        run $pair "--only relay-killed --only binding-removed" $DEPENDS &
    done
    wait
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 64
    ;;
esac
echo
echo "$header"
sort -V "$rows"/*.row
[ -z "$(find "$rows" -name '*.failed')" ]
