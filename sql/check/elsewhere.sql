-- Tables of the same name in other schemas, for one that is not where it was looked for.
--   psql -v schema=public -v table=outbox_messages -f check/elsewhere.sql
SELECT namespace.nspname || '.' || relation.relname AS name
  FROM pg_class AS relation
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE relation.relname = :'table' AND namespace.nspname <> :'schema'
   AND relation.relkind IN ('r', 'p') AND NOT relation.relispartition AND relation.relpersistence <> 't'
 ORDER BY 1 LIMIT 10;
