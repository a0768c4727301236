-- Of parked events that were delivered, those that were discarded while they were in flight: their
-- records say what became of them. After park_delivered.sql, which waits for a discard that is under
-- way.
--   $1 bigint[]: seq
UPDATE pgoutbox.parked
   SET claimed_at = NULL,
       note = concat_ws('; ', note, format('it was in flight then, and was delivered at %s',
                                           to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
 WHERE seq = ANY ($1) AND state = 'discarded' AND claimed_at IS NOT NULL;
