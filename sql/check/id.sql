-- Whether the id tells each row of a table from all others. One row, or none where there is no such
-- column. Of a partitioned table a unique index has to hold the columns of its key as well: then the
-- id is as good as that table can have it.
--   psql -v relation=16389 -v id=id -f check/id.sql
SELECT NOT attribute.attnotnull AS is_nullable,
       EXISTS (SELECT FROM pg_index AS index
                WHERE index.indrelid = attribute.attrelid AND index.indisunique AND index.indisvalid
                  AND index.indpred IS NULL AND index.indexprs IS NULL
                  AND attribute.attnum = ANY (index.indkey::int2[])
                  AND NOT EXISTS (SELECT FROM unnest((index.indkey::int2[])[0:index.indnkeyatts - 1]) AS key (number)
                                   WHERE key.number <> attribute.attnum
                                     AND NOT EXISTS (SELECT FROM pg_partitioned_table AS partitioned
                                                      WHERE partitioned.partrelid = attribute.attrelid
                                                        AND key.number = ANY (partitioned.partattrs::int2[])))) AS is_unique
  FROM pg_attribute AS attribute
 WHERE attribute.attrelid = :'relation'::oid AND attribute.attname = :'id' AND NOT attribute.attisdropped;
