-- Which event of its aggregate one waits behind, and how many wait behind it.
--   psql -v seq=7 -f parked/neighbours.sql
SELECT CASE WHEN place.is_holding AND place.head IS NOT NULL
            THEN (SELECT count(*)
                    FROM pgoutbox.parked_queue(parked.slot, parked.aggregate_type, parked.aggregate_id) AS queue
                   WHERE queue.seq > parked.seq)
            ELSE 0 END AS behind,
       nullif(place.head, place.seq) AS head
  FROM pgoutbox.parked
 CROSS JOIN LATERAL pgoutbox.parked_places(parked.slot) AS place
 WHERE parked.seq = :'seq'::bigint AND place.seq = parked.seq;
