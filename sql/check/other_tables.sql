-- Tables in the publication that no outbox is: their rows cost decoding and are passed over.
--   psql -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f check/other_tables.sql
-- Opens no table: one of them may be locked.
WITH publication AS (
    SELECT oid, puballtables FROM pg_publication WHERE pubname = :'publication'
), namespace AS (                          -- FOR TABLES IN SCHEMA, from 15 on
    SELECT entry.refobjid AS oid
      FROM publication
      JOIN pg_depend AS its_publication
        ON its_publication.refclassid = 'pg_publication'::regclass AND its_publication.refobjid = publication.oid
       AND its_publication.classid = to_regclass('pg_catalog.pg_publication_namespace')
      JOIN pg_depend AS entry
        ON entry.classid = its_publication.classid AND entry.objid = its_publication.objid
       AND entry.refclassid = 'pg_namespace'::regclass
)
SELECT format('%I.%I', its_namespace.nspname, relation.relname) AS name,
       -- Else it came with its schema, or with all.
       member.oid IS NOT NULL AS is_member,
       ARRAY(SELECT attribute.attname::text FROM pg_attribute AS attribute
              WHERE attribute.attrelid = relation.oid AND attribute.attnum > 0
                AND NOT attribute.attisdropped) AS columns
  FROM publication
  JOIN pg_class AS relation
    ON relation.relkind IN ('r', 'p') AND relation.relpersistence = 'p' AND relation.oid >= 16384
  JOIN pg_namespace AS its_namespace ON its_namespace.oid = relation.relnamespace
  LEFT JOIN pg_publication_rel AS member ON member.prpubid = publication.oid AND member.prrelid = relation.oid
 WHERE (member.oid IS NOT NULL
        OR NOT relation.relispartition
           AND (publication.puballtables OR relation.relnamespace IN (SELECT oid FROM namespace)))
   -- Neither an outbox, nor a partition of one, nor what one is a partition of.
   AND NOT EXISTS (SELECT FROM jsonb_array_elements(:'tables'::jsonb) AS wanted (names)
                     JOIN pg_namespace AS its ON its.nspname = wanted.names ->> 0
                     JOIN pg_class AS outbox
                       ON outbox.relnamespace = its.oid AND outbox.relname = wanted.names ->> 1
                    WHERE outbox.oid = relation.oid
                       OR outbox.oid IN (SELECT pg_partition_ancestors(relation.oid))
                       OR relation.oid IN (SELECT pg_partition_ancestors(outbox.oid)))
 ORDER BY 1 LIMIT 100;
