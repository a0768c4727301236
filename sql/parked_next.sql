-- Milliseconds until the next parked event is due, null where there is none; and who paused the
-- relay, null where nobody did.
--   $1 name: slot
SELECT (SELECT (extract(epoch FROM min(next_attempt_at) - now()) * 1000)::bigint
          FROM pgoutbox.parked WHERE slot = $1 AND state = 'parked') AS next_ms,
       (SELECT concat_ws(': ', paused_by, note) FROM pgoutbox.pause WHERE slot = $1) AS paused_by;
