-- The row is ahead of the server, which was restored from a copy: what it says is of a history that
-- is gone. The slot's own place takes over. Waits for the disk.
--   psql -v slot=pgoutbox -f progress/forget.sql
UPDATE pgoutbox.progress
   SET end_lsn = coalesce((SELECT confirmed_flush_lsn FROM pg_replication_slots
                            WHERE slot_name = :'slot'), '0/0'),
       commit_lsn = NULL, settled = 0, change_lsn = NULL, change_number = NULL,
       publishing_id = 0, confirmed_id = 0, updated_at = now()
 WHERE slot = :'slot' AND set_config('synchronous_commit', 'local', true) = 'local';
