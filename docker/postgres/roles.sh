#!/bin/bash
# The relay's roles with their passwords, when the database is made. `pgoutbox init` gives them their rights.
set -eu
psql -v ON_ERROR_STOP=1 -v stream="$STREAM_PASSWORD" -v audit="$AUDIT_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE pgoutbox_stream LOGIN REPLICATION PASSWORD :'stream';
CREATE ROLE pgoutbox_audit LOGIN PASSWORD :'audit';
SQL
