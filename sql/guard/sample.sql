-- What the guard over the WAL looks at. One row, or none where the slot does not exist.
--   psql -v slot=pgoutbox -f guard/sample.sql
SELECT pg_wal_lsn_diff(at.wal_lsn, '0/0')::bigint AS wal,
       pg_wal_lsn_diff(slot.restart_lsn, '0/0')::bigint AS restart,
       pg_wal_lsn_diff(slot.confirmed_flush_lsn, '0/0')::bigint AS confirmed,
       -- how far events are settled: within a transaction and a catch-up too
       pg_wal_lsn_diff(coalesce(progress.commit_lsn, progress.end_lsn), '0/0')::bigint AS place,
       progress.settled,
       slot.safe_wal_size,
       (SELECT nullif(setting::bigint, -1) * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep,
       slot.wal_status,
       to_jsonb(slot) ->> 'invalidation_reason' AS invalidation_reason, -- from Postgres 17 on
       slot.active,
       (SELECT stats.spill_bytes FROM pg_stat_replication_slots AS stats
         WHERE stats.slot_name = slot.slot_name) AS spilled
  FROM pg_replication_slots AS slot
  LEFT JOIN pgoutbox.progress AS progress ON progress.slot = slot.slot_name,
       LATERAL (SELECT pg_current_wal_flush_lsn() AS wal_lsn) AS at
 WHERE slot.slot_name = :'slot' AND NOT pg_is_in_recovery();
