-- Whether marks find rows of a table by an index that begins with the id: of each piece, where the table
-- is partitioned. One row.
--   psql -v relation=16389 -v id=id -f check_id_index.sql
SELECT NOT EXISTS (
    SELECT FROM (SELECT part.relid FROM pg_partition_tree(:'relation'::oid) AS part WHERE part.isleaf
                 UNION SELECT oid FROM pg_class WHERE oid = :'relation'::oid AND relkind = 'r') AS leaf (oid)
     WHERE NOT EXISTS (SELECT FROM pg_index AS index
                         JOIN pg_attribute AS attribute
                           ON attribute.attrelid = index.indrelid AND attribute.attnum = index.indkey[0]
                        WHERE index.indrelid = leaf.oid AND attribute.attname = :'id'
                          AND index.indisvalid AND index.indpred IS NULL)) AS has_id_index;
