-- Partitions whose rows the publication filters, each by a filter of its own, where rows come under the
-- partitions' names: the other partitions have none, nor has one that is made later.
--   psql -v publication=pgoutbox -v relation=16389 -f check/leaf_filters.sql
SELECT format('%I.%I', namespace.nspname, relation.relname) AS leaf, of_table.filter
  FROM pg_publication AS publication
  JOIN (SELECT pubname, schemaname, tablename, to_jsonb(published) ->> 'rowfilter' AS filter   -- from 15 on
          FROM pg_publication_tables AS published) AS of_table ON of_table.pubname = publication.pubname
  JOIN pg_namespace AS namespace ON namespace.nspname = of_table.schemaname
  JOIN pg_class AS relation ON relation.relnamespace = namespace.oid AND relation.relname = of_table.tablename
 WHERE publication.pubname = :'publication' AND NOT publication.pubviaroot
   AND of_table.filter IS NOT NULL AND relation.oid <> :'relation'::oid
   AND relation.oid IN (SELECT relid FROM pg_partition_tree(:'relation'::oid))
 ORDER BY 1;
