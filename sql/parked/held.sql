-- The aggregates whose first event was tried, and waits for its time or for an operator. Where the
-- first was never tried, it is to be tried now.
--   $1 name: slot
SELECT DISTINCT parked.aggregate_type, parked.aggregate_id
  FROM pgoutbox.parked
 -- As pgoutbox.parked_places has it; a join with that is planned as one row, and reads all of them for each.
 CROSS JOIN LATERAL (
       SELECT queue.seq
         FROM pgoutbox.parked_queue(parked.slot, parked.aggregate_type, parked.aggregate_id) AS queue
        ORDER BY queue.seq LIMIT 1) AS first
 WHERE parked.slot = $1 AND parked.state IN ('parked', 'failed') AND parked.is_holding
   AND parked.aggregate_id IS NOT NULL AND first.seq = parked.seq;
