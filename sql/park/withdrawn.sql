-- Parked events that were taken and not sent after all: the relay was paused, or ended,
-- an event before them was refused, or somebody changed the parking.
-- A row that somebody has a lock on is left: see parked/still.sql.
--   $1 bigint[]: seq
UPDATE pgoutbox.parked
   SET claimed_at = NULL,
       note = CASE WHEN state IN ('parked', 'queued', 'failed') THEN note
                   ELSE concat_ws('; ', note, 'it was about to be published then, and was not') END
 WHERE seq IN (SELECT seq FROM pgoutbox.parked
                WHERE seq = ANY ($1) AND claimed_at IS NOT NULL
                  FOR UPDATE SKIP LOCKED);
