-- The aggregates of which anything waits: should somebody have taken out what it waits for, it
-- is tried next.
--   $1 name: slot
SELECT DISTINCT aggregate_type, aggregate_id
  FROM pgoutbox.parked
 WHERE slot = $1 AND state = 'queued' AND aggregate_id IS NOT NULL;
