-- What of the server matters to a relay. One row.
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS is_standby,
       current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::integer AS max_slots,
       (SELECT count(*)::integer FROM pg_replication_slots) AS slots,
       current_setting('max_wal_senders')::integer AS max_senders,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb,
       current_setting('synchronous_standby_names') AS synchronous_names,
       current_setting('track_commit_timestamp')::boolean AS has_commit_times,
       current_setting('server_encoding') AS encoding,
       current_database()::text AS database,
       current_user::text AS role;
