-- The pieces of a table that hold rows, and how many blocks each has.
--   psql -v relation=16389 -f catch_up/leaves.sql
SELECT part.relid::oid AS leaf, part.relid::regclass::text AS name,
       pg_relation_size(part.relid) / current_setting('block_size')::bigint AS blocks
  FROM (SELECT relid FROM pg_partition_tree(:'relation'::oid) WHERE isleaf
         UNION
        SELECT :'relation'::oid::regclass) AS part
 WHERE pg_relation_size(part.relid) > 0
 ORDER BY part.relid;
