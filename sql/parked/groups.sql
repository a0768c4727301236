-- Parked events that are not done with, by reason and table of the one that is tried, with how many wait
-- behind them; the most first.
--   psql -v slot=pgoutbox -f parked/groups.sql
WITH place AS MATERIALIZED (
    SELECT place.seq, place.head, place.state FROM pgoutbox.parked_places(:'slot') AS place WHERE place.head IS NOT NULL
)
SELECT head.reason,
       coalesce('message:' || head.prefix, format('%s.%s', namespace.nspname, relation.relname)) AS table,
       count(*) FILTER (WHERE place.seq = place.head) AS events,
       count(*) FILTER (WHERE place.seq = place.head AND place.state = 'failed') AS failed,
       count(*) FILTER (WHERE place.seq <> place.head) AS waiting,
       min(coalesce(head.hint, head.mend)) AS hint,
       count(DISTINCT coalesce(head.hint, head.mend)) AS hints,
       extract(epoch FROM now() - min(head.parked_at))::float8 AS oldest_seconds
  FROM place
  JOIN pgoutbox.parked AS head ON head.seq = place.head
  LEFT JOIN pg_class AS relation ON relation.oid = head.outbox
  LEFT JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 GROUP BY 1, 2
 ORDER BY events DESC, 1, 2;
