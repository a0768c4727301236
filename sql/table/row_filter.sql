-- The publication's row filter (from Postgres 15 on) for a table, as an expression over its columns:
-- rows for which it is not true are none of this relay's. Of a partitioned table that whose name
-- rows come under: the root's, or each partition's own. One row, of "true" where there is none.
--   psql -v publication=pgoutbox -v relation=16389 -f table/row_filter.sql
SELECT coalesce(string_agg(
           CASE WHEN relation.oid = :'relation'::oid THEN format('(%s)', of_table.filter)
                ELSE format('(tableoid <> %s OR (%s))', relation.oid, of_table.filter) END, ' AND '), 'true') AS filter
  FROM (SELECT schemaname, tablename, to_jsonb(published) ->> 'rowfilter' AS filter
          FROM pg_publication_tables AS published WHERE pubname = :'publication') AS of_table
  JOIN pg_namespace AS namespace ON namespace.nspname = of_table.schemaname
  JOIN pg_class AS relation ON relation.relnamespace = namespace.oid AND relation.relname = of_table.tablename
 WHERE of_table.filter IS NOT NULL
   AND (relation.oid = :'relation'::oid
        OR relation.oid IN (SELECT relid FROM pg_partition_tree(:'relation'::oid)));
