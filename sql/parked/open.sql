-- The parked events of a slot that are not done with, by state and reason, and how many
-- aggregates wait behind one.
--   psql -v slot=pgoutbox -f parked/open.sql
SELECT place.state, coalesce(parked.reason, '') AS reason, count(*) AS events,
       extract(epoch FROM now() - min(parked.parked_at))::float8 AS oldest_seconds,
       (SELECT count(*) FROM (SELECT DISTINCT aggregate_type, aggregate_id FROM pgoutbox.parked
                               WHERE slot = :'slot' AND state IN ('parked', 'queued', 'failed')
                                 AND is_holding AND aggregate_id IS NOT NULL) AS held) AS held
  FROM pgoutbox.parked
  JOIN pgoutbox.parked_places(:'slot') AS place ON place.seq = parked.seq
 WHERE parked.slot = :'slot' AND parked.state IN ('parked', 'queued', 'failed')
 GROUP BY 1, 2
 ORDER BY 1, 2;
