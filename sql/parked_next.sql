-- Milliseconds until the next parked event is due; null where there is none.
--   $1 name: slot
SELECT (extract(epoch FROM min(next_attempt_at) - now()) * 1000)::bigint AS next_ms
  FROM pgoutbox.parked WHERE slot = $1 AND state = 'parked';
