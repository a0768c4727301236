#!/bin/sh
# usage: record.sh BIN > pgMAJOR.hex
# Runs scenario.sql on a private server of the programs in BIN, and prints what pgoutput makes
# of it: one message a line, in hexadecimal. Not as root. Needs psql on the PATH.
set -eu
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
data=$(mktemp -d)
trap '"$bin/pg_ctl" -D "$data/pg" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$data"' EXIT
"$bin/initdb" -D "$data/pg" -U golden -A trust -E UTF8 --no-locale >/dev/null
"$bin/pg_ctl" -D "$data/pg" -w -l "$data/log" -o "-c wal_level=logical -c listen_addresses= -k $data" start >/dev/null
sql() { psql -X -q -v ON_ERROR_STOP=1 -h "$data" -U golden -d postgres "$@"; }
sql -f "$here/scenario.sql" >/dev/null
sql -A -t -c "SET datestyle = 'ISO'" -c "SET timezone = 'UTC'" -c "
    SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('golden', NULL, NULL,
        'proto_version', '1', 'publication_names', '\"p\",\"Root\"', 'messages', 'true')"
