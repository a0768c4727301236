-- The columns of a table with their texts, just as the server writes them out: what stands behind VALUES, over
-- "outbox", in one row. Each has the number and the name that it has today, and its type as the stream says it
-- (null: it is not in the stream). Columns that are worked out when a row is read are left out: they may raise,
-- and no message has them.
--   types: of each column in the stream the type
--   psql -v relation=16389 -v types='{"id": 20}' -f table/texts.sql
SELECT string_agg(format('(%1$s, %2$L, %3$s, CASE WHEN outbox.%2$I IS DISTINCT FROM NULL THEN concat(outbox.%2$I) END)',
                         attribute.attnum, attribute.attname, coalesce(:'types'::json ->> attribute.attname, 'NULL::bigint')),
                  ', ' ORDER BY attribute.attnum) AS texts
  FROM pg_attribute AS attribute
 WHERE attribute.attrelid = :'relation'::oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
   AND attribute.attgenerated <> 'v';
