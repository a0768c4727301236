-- Pages of a table with all its partitions, from the files' sizes: no row is read.
--   psql -v relation=16389 -f table/pages.sql
SELECT coalesce(sum(pg_relation_size(part.relid)), 0)::bigint / current_setting('block_size')::bigint AS pages
  FROM (SELECT relid FROM pg_partition_tree(:'relation'::oid) WHERE isleaf
        UNION SELECT :'relation'::oid) AS part
  JOIN pg_class AS relation ON relation.oid = part.relid AND relation.relkind = 'r';
