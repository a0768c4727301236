-- Parked events that were delivered after all, and whose marks are not known to be written: they stay
-- until they are (park/marked.sql). What an operator discarded meanwhile stays as a record: see
-- park/noted.sql. A row that somebody has a lock on is left: see parked/still.sql.
--   $1 bigint[]: seq
UPDATE pgoutbox.parked
   SET state = 'delivered', claimed_at = NULL, next_attempt_at = NULL, changed_at = now()
 WHERE seq IN (SELECT seq FROM pgoutbox.parked
                WHERE seq = ANY ($1) AND state IN ('parked', 'queued', 'failed')
                  FOR UPDATE SKIP LOCKED);
