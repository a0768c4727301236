-- A relation and all that it is a partition of, itself first; none where it is gone.
--   psql -v relation=16389 -f partition_root.sql
SELECT namespace.nspname::text AS schema, relation.relname::text AS name
  FROM (SELECT :'relation'::oid AS relid, 0 AS depth
        UNION ALL
        SELECT up.relid, up.depth::integer
          FROM pg_partition_ancestors(:'relation'::oid) WITH ORDINALITY AS up (relid, depth)
         WHERE up.relid <> :'relation'::oid) AS family
  JOIN pg_class AS relation ON relation.oid = family.relid
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 ORDER BY family.depth;
