-- The tables that hold the rows: the table itself, or its partitions; and their blocks, from the
-- files' sizes.
--   psql -v relation=16389 -f table/heap.sql
SELECT namespace.nspname::text AS schema, relation.relname::text AS name,
       pg_relation_size(relation.oid) / current_setting('block_size')::bigint AS blocks
  FROM (SELECT relid FROM pg_partition_tree(:'relation'::oid) WHERE isleaf
        UNION SELECT :'relation'::oid) AS part
  JOIN pg_class AS relation ON relation.oid = part.relid AND relation.relkind = 'r'
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 ORDER BY 1, 2;
