-- The columns of a table as texts, just as the server writes them out: a list of expressions over
-- "outbox", in one row. Columns that are worked out when a row is read are left out: they may raise, and
-- no message has them.
--   psql -v relation=16389 -f table/texts.sql
SELECT string_agg(format('CASE WHEN outbox.%1$I IS DISTINCT FROM NULL THEN concat(outbox.%1$I) END AS %1$I',
                         attribute.attname), ', ' ORDER BY attribute.attnum) AS texts
  FROM pg_attribute AS attribute
 WHERE attribute.attrelid = :'relation'::oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
   AND attribute.attgenerated <> 'v';
