-- What else `check` looks at: nothing of it stops a relay that streams. One row.
--   psql -v stream_role=pgoutbox_stream -f check/server.sql
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock_micros,
       pg_backend_pid() AS backend_pid,
       -- Sent along at the start of the connection: a pooler drops it.
       EXISTS (SELECT FROM pg_roles WHERE rolname = :'stream_role') AS has_stream_role,
       (SELECT count(*)::integer FROM pg_stat_get_wal_senders()) AS senders,
       current_setting('max_wal_senders')::integer AS max_senders,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout') AS wal_sender_timeout_ms,
       current_setting('wal_sender_timeout') AS wal_sender_timeout,
       -- From 18 on.
       nullif(current_setting('idle_replication_slot_timeout', true), '0') AS idle_slot_timeout;
