-- Parked events that were delivered after all. What an operator discarded meanwhile stays as a
-- record: see park/noted.sql. A row that somebody has a lock on is left: see parked/still.sql.
--   $1 bigint[]: seq
DELETE FROM pgoutbox.parked
 WHERE seq IN (SELECT seq FROM pgoutbox.parked
                WHERE seq = ANY ($1) AND state IN ('parked', 'queued', 'failed')
                  FOR UPDATE SKIP LOCKED);
