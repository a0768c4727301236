-- The first that waits in an aggregate with nothing parked to wait for, as a crash or a
-- discarded event leaves it: now it is the one to be tried.
--   $1 name: slot
UPDATE pgoutbox.parked
   SET state = 'parked', next_attempt_at = now()
 WHERE seq IN (
       SELECT DISTINCT ON (queued.aggregate_type, queued.aggregate_id) queued.seq
         FROM pgoutbox.parked AS queued
        WHERE queued.slot = $1 AND queued.state = 'queued'
          AND NOT EXISTS (
              SELECT FROM pgoutbox.parked AS head
               WHERE head.slot = $1 AND head.aggregate_id = queued.aggregate_id
                 AND head.aggregate_type IS NOT DISTINCT FROM queued.aggregate_type
                 AND head.state IN ('parked', 'failed') AND head.is_holding)
        ORDER BY queued.aggregate_type, queued.aggregate_id, queued.seq);
