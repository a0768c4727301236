-- Events that were parked before the relay's place in the stream came to them: the stream brings
-- them again. And how far the WAL is written now, behind all of them.
--   $1 name: slot, $2 pg_lsn, $3 bigint: the place
SELECT outbox::oid AS outbox, prefix, event_id, commit_lsn, index, pg_current_wal_insert_lsn() AS written_lsn
  FROM pgoutbox.parked
 WHERE slot = $1 AND (commit_lsn, index) >= ($2, $3);
