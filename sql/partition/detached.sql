-- Partitions that were detached and not dropped: a pass was cut short between the two.
--   psql -v schema=public -v comment='...%' -f partition/detached.sql
SELECT relation.oid, relation.relname::text AS name, obj_description(relation.oid, 'pg_class') AS comment
  FROM pg_class AS relation
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE namespace.nspname = :'schema' AND relation.relkind = 'r' AND NOT relation.relispartition
   AND obj_description(relation.oid, 'pg_class') LIKE :'comment'
   AND pg_has_role(relation.relowner, 'USAGE')
 ORDER BY 2;
