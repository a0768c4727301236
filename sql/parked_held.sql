-- The aggregates that wait, each for its parked or failed event.
--   $1 name: slot
SELECT DISTINCT aggregate_type, aggregate_id
  FROM pgoutbox.parked
 WHERE slot = $1 AND state IN ('parked', 'failed') AND is_holding AND aggregate_id IS NOT NULL;
