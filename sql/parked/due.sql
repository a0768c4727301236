-- Parked events whose time has come and that wait for no other, the oldest first: as many as make
-- 8 MB, and one at least.
--   $1 name: slot, $2 bigint[]: which are passed over
SELECT seq, aggregate_type, aggregate_id, is_holding, is_closed
  FROM (SELECT seq, aggregate_type, aggregate_id, is_holding,
               coalesce(reason = 'closed', false) AS is_closed, pg_column_size(cells) AS size,
               sum(pg_column_size(cells)) OVER (ORDER BY seq) AS size_until
          FROM (SELECT parked.*
                  FROM pgoutbox.parked
                  JOIN pgoutbox.parked_places($1) AS place ON place.seq = parked.seq
                 WHERE parked.slot = $1 AND parked.state = 'parked' AND parked.next_attempt_at <= now()
                   AND place.head = parked.seq AND parked.seq <> ALL ($2)
                 ORDER BY parked.seq LIMIT 64) AS first) AS sized
 WHERE size_until - size < 8388608
 ORDER BY seq;
