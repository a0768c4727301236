-- A parked event was tried and refused again; or its dead letter was taken. What an operator
-- discarded meanwhile stays discarded, and its record says what became of it. A row that somebody has
-- a lock on is left: see parked/still.sql.
--   $1 bigint: seq, $2 text: state, $3 integer: attempts, $4 bigint: milliseconds to its next
--   try, $5 text: reason, $6 text: error, $7 text: hint
UPDATE pgoutbox.parked
   SET state = CASE WHEN state = 'discarded' THEN state ELSE $2::text END,
       attempts = $3,
       next_attempt_at = CASE WHEN state <> 'discarded' THEN now() + $4::bigint * interval '1 millisecond' END,
       reason = $5, last_error = $6, hint = $7, tries = pgoutbox.with_try(tries, $5, $6), claimed_at = NULL, changed_at = now(),
       note = CASE WHEN state = 'discarded'
                   THEN concat_ws('; ', note, CASE WHEN $2::text = 'dead_lettered'
                                                   THEN 'it was in flight then, and the dead-letter exchange took it'
                                                   ELSE 'it was in flight then, and was refused' END)
                   ELSE note END
 WHERE seq = (SELECT seq FROM pgoutbox.parked WHERE seq = $1 FOR UPDATE SKIP LOCKED)
   AND (state IN ('parked', 'queued', 'failed') OR state = 'discarded' AND claimed_at IS NOT NULL);
