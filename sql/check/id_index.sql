-- Whether marks find rows of a table by an index that begins with the id: of each piece, where the table
-- is partitioned. One row.
--   psql -v relation=16389 -v id=id -f check/id_index.sql
WITH RECURSIVE part (oid) AS (             -- pg_partition_tree waits for locks
    SELECT :'relation'::oid
     UNION
    SELECT link.inhrelid
      FROM part JOIN pg_inherits AS link ON link.inhparent = part.oid
      JOIN pg_class AS child ON child.oid = link.inhrelid AND child.relispartition
)
SELECT NOT EXISTS (
    SELECT FROM part JOIN pg_class AS leaf ON leaf.oid = part.oid AND leaf.relkind <> 'p'
     WHERE NOT EXISTS (SELECT FROM pg_index AS index
                         JOIN pg_attribute AS attribute
                           ON attribute.attrelid = index.indrelid AND attribute.attnum = index.indkey[0]
                        WHERE index.indrelid = leaf.oid AND attribute.attname = :'id'
                          AND index.indisvalid AND index.indpred IS NULL)) AS has_id_index;
