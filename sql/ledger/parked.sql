-- The parked events of a slot, by table and state.
--   psql -v slot=pgoutbox -f ledger/parked.sql
SELECT coalesce('message:' || parked.prefix, format('%s.%s', namespace.nspname, relation.relname)) AS table, place.state,
       count(*) AS events,
       to_char(min(parked.parked_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS oldest,
       extract(epoch FROM now() - min(parked.parked_at))::float8 AS age_seconds
  FROM pgoutbox.parked AS parked
  JOIN pgoutbox.parked_places(:'slot') AS place ON place.seq = parked.seq
  LEFT JOIN pg_class AS relation ON relation.oid = parked.outbox
  LEFT JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE parked.slot = :'slot'
 GROUP BY 1, 2
 ORDER BY 1, array_position('{parked,queued,failed,dead_lettered,discarded}'::text[], place.state);
