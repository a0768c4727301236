-- Tables in the publication that no outbox is: their rows cost decoding and are passed over.
--   psql -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f other_tables.sql
SELECT format('%I.%I', schemaname, tablename) AS name
  FROM pg_publication_tables
 WHERE pubname = :'publication'
   AND NOT jsonb_build_array(jsonb_build_array(schemaname, tablename)) <@ :'tables'::jsonb
   -- Partitions of an outbox are no strangers.
   AND NOT EXISTS (SELECT FROM pg_partition_ancestors(format('%I.%I', schemaname, tablename)::regclass) AS up
                     JOIN pg_class AS relation ON relation.oid = up.relid
                     JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
                    WHERE jsonb_build_array(jsonb_build_array(namespace.nspname, relation.relname)) <@ :'tables'::jsonb)
 ORDER BY 1 LIMIT 10;
