-- The partitions of a table that is partitioned by range of one column of time, with their bounds
-- in seconds since 1970, UTC; null is no bound. No row: another kind of table.
--   psql -v relation=16389 -f partitions.sql
SELECT part.oid,
       namespace.nspname::text AS schema,
       part.relname::text AS name,
       part.relkind = 'r' AS is_leaf,
       pg_get_expr(part.relpartbound, part.oid) = 'DEFAULT' AS is_default,
       -- from a DETACH … CONCURRENTLY that was cut short
       inherits.inhdetachpending AS is_detaching,
       extract(epoch FROM substring(pg_get_expr(part.relpartbound, part.oid) FROM $$FROM \('([^']*)'\)$$)::timestamp)::bigint AS lower,
       extract(epoch FROM substring(pg_get_expr(part.relpartbound, part.oid) FROM $$TO \('([^']*)'\)$$)::timestamp)::bigint AS upper,
       key.attname::text AS key,
       pg_has_role(part.relowner, 'USAGE') AND pg_has_role(root.relowner, 'USAGE') AS is_ours
  FROM pg_class AS root
  JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = root.oid
  JOIN pg_attribute AS key ON key.attrelid = root.oid AND key.attnum = partitioned.partattrs[0]
  JOIN pg_inherits AS inherits ON inherits.inhparent = root.oid
  JOIN pg_class AS part ON part.oid = inherits.inhrelid
  JOIN pg_namespace AS namespace ON namespace.oid = part.relnamespace
 WHERE root.oid = :'relation'::oid
   AND partitioned.partstrat = 'r' AND partitioned.partnatts = 1
   AND key.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
 ORDER BY lower NULLS FIRST, part.relname;
