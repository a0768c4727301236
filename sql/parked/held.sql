-- The aggregates whose first event was tried, and waits for its time or for an operator. Where the
-- first was never tried, it is to be tried now.
--   $1 name: slot
SELECT DISTINCT parked.aggregate_type, parked.aggregate_id
  FROM pgoutbox.parked
  JOIN pgoutbox.parked_places($1) AS place ON place.seq = parked.seq
 WHERE parked.slot = $1 AND parked.state IN ('parked', 'failed') AND parked.is_holding
   AND parked.aggregate_id IS NOT NULL AND place.head = parked.seq;
