-- Milliseconds until the next parked event is due, null where there is none; and who paused the
-- relay, null where nobody did.
--   $1 name: slot, $2 bigint[]: which are passed over
SELECT (SELECT (extract(epoch FROM parked.next_attempt_at - now()) * 1000)::bigint
          FROM pgoutbox.parked
          JOIN pgoutbox.parked_places($1) AS place ON place.seq = parked.seq
         WHERE parked.slot = $1 AND parked.state = 'parked' AND place.head = parked.seq
           AND parked.seq <> ALL ($2)
         ORDER BY parked.next_attempt_at LIMIT 1) AS next_ms,
       (SELECT concat_ws(': ', paused_by, note) FROM pgoutbox.pause WHERE slot = $1) AS paused_by;
