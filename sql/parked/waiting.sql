-- The aggregates of which anything waits.
--   $1 name: slot
SELECT DISTINCT aggregate_type, aggregate_id
  FROM pgoutbox.parked
 WHERE slot = $1 AND state IN ('parked', 'queued', 'failed') AND is_holding AND aggregate_id IS NOT NULL;
