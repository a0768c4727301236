-- Tables in the publication that no outbox is: their rows cost decoding and are passed over.
--   psql -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f other_tables.sql
SELECT format('%I.%I', covered.schemaname, covered.tablename) AS name,
       -- Else it came with its schema, with the table that it is a part of, or with all.
       EXISTS (SELECT FROM pg_publication_rel AS member
                 JOIN pg_publication AS publication ON publication.oid = member.prpubid
                WHERE publication.pubname = covered.pubname AND member.prrelid = relation.oid) AS is_member
  FROM pg_publication_tables AS covered
  JOIN pg_namespace AS namespace ON namespace.nspname = covered.schemaname
  JOIN pg_class AS relation
    ON relation.relnamespace = namespace.oid AND relation.relname = covered.tablename
 WHERE covered.pubname = :'publication'
   -- Neither an outbox nor a partition of one.
   AND NOT EXISTS (SELECT FROM jsonb_array_elements(:'tables'::jsonb) AS wanted (names)
                     JOIN pg_namespace AS its ON its.nspname = wanted.names ->> 0
                     JOIN pg_class AS outbox
                       ON outbox.relnamespace = its.oid AND outbox.relname = wanted.names ->> 1
                    WHERE outbox.oid = relation.oid
                       OR outbox.oid IN (SELECT pg_partition_ancestors(relation.oid)))
 ORDER BY 1 LIMIT 100;
