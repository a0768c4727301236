-- A parked event was tried and refused again; or its dead letter was taken. What an operator
-- discarded meanwhile stays discarded.
--   $1 bigint: seq, $2 text: state, $3 integer: attempts, $4 bigint: milliseconds to its next
--   try, $5 text: reason, $6 text: error, $7 text: mend
UPDATE pgoutbox.parked
   SET state = $2, attempts = $3,
       next_attempt_at = now() + $4::bigint * interval '1 millisecond',
       reason = $5, last_error = $6, mend = $7, changed_at = now()
 WHERE seq = $1 AND state IN ('parked', 'queued', 'failed');
