-- The partitions of a table that is partitioned by range of one column of time, with their bounds
-- in seconds since 1970, UTC; null is no bound. No row: another kind of table.
--   psql -v relation=16389 -f partition/list.sql
SELECT part.oid,
       namespace.nspname::text AS schema,
       part.relname::text AS name,
       part.relkind = 'r' AS is_leaf,
       pg_get_expr(part.relpartbound, part.oid) = 'DEFAULT' AS is_default,
       -- from a DETACH ... CONCURRENTLY that was cut short
       inherits.inhdetachpending AS is_detaching,
       bound.lower, bound.upper,
       key.attname::text AS key,
       obj_description(part.oid, 'pg_class') AS comment,
       pg_has_role(part.relowner, 'USAGE') AND pg_has_role(root.relowner, 'USAGE') AS is_ours
  FROM pg_class AS root
  JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = root.oid
  JOIN pg_attribute AS key ON key.attrelid = root.oid AND key.attnum = partitioned.partattrs[0]
  JOIN pg_inherits AS inherits ON inherits.inhparent = root.oid
  JOIN pg_class AS part ON part.oid = inherits.inhrelid
  JOIN pg_namespace AS namespace ON namespace.oid = part.relnamespace,
       LATERAL (SELECT substring(pg_get_expr(part.relpartbound, part.oid) FROM $$FROM \('([^']*)'\)$$) AS lower,
                       substring(pg_get_expr(part.relpartbound, part.oid) FROM $$TO \('([^']*)'\)$$) AS upper) AS text,
       -- Only a timestamptz is written with its zone, which is the session's.
       LATERAL (SELECT extract(epoch FROM CASE key.atttypid WHEN 'timestamptz'::regtype THEN text.lower::timestamptz
                                          ELSE text.lower::timestamp AT TIME ZONE 'UTC' END)::bigint AS lower,
                       extract(epoch FROM CASE key.atttypid WHEN 'timestamptz'::regtype THEN text.upper::timestamptz
                                          ELSE text.upper::timestamp AT TIME ZONE 'UTC' END)::bigint AS upper) AS bound
 WHERE root.oid = :'relation'::oid
   AND partitioned.partstrat = 'r' AND partitioned.partnatts = 1
   AND key.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
 ORDER BY bound.lower NULLS FIRST, part.relname;
