-- The tables that hold the rows of a table: itself, or its partitions. Pages from the files'
-- sizes: no row is read.
--   psql -v relation=16389 -f table/leaves.sql
SELECT relation.oid AS leaf, relation.oid::regclass::text AS shown, namespace.nspname::text AS schema, relation.relname::text AS name,
       pg_relation_size(relation.oid) / current_setting('block_size')::bigint AS pages
  FROM (SELECT relid FROM pg_partition_tree(:'relation'::oid) WHERE isleaf
        UNION SELECT :'relation'::oid) AS part
  JOIN pg_class AS relation ON relation.oid = part.relid AND relation.relkind = 'r'
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 ORDER BY namespace.nspname, relation.relname;
