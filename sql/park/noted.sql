-- Of parked events that were delivered, those that were discarded while they were in flight: their
-- records say what became of them. A row that somebody has a lock on is left: see parked/still.sql.
--   $1 bigint[]: seq
UPDATE pgoutbox.parked
   SET claimed_at = NULL,
       note = concat_ws('; ', note, format('it was in flight then, and was delivered at %s',
                                           to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
 WHERE seq IN (SELECT seq FROM pgoutbox.parked
                WHERE seq = ANY ($1) AND state = 'discarded' AND claimed_at IS NOT NULL
                  FOR UPDATE SKIP LOCKED);
