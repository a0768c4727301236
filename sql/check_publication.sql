-- Whether the publication still brings every outbox table into the stream. The relay asks
-- this each second while WAL moves, since Postgres 18 passes over a missing publication in
-- silence, and every version does so for a table that left it. One row per table; the oids
-- tell a publication, table or membership that was dropped and made again.
--   psql -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f check_publication.sql
SELECT (wanted.number - 1)::integer AS number,
       publication.oid AS publication,
       -- Another with each change: one that was taken back leaves nothing else.
       publication.xmin::text AS publication_version,
       -- A table that comes with its schema leaves it without a trace in the publication.
       CASE WHEN member.oid IS NULL AND NOT publication.puballtables THEN relation.xmin::text
            ELSE member.xmin::text END AS member_version,
       publication.pubinsert AS inserts,
       publication.pubupdate AS updates,
       publication.pubdelete AS deletes,
       publication.pubtruncate AS truncates,
       publication.pubviaroot AS is_via_root,
       to_jsonb(publication) ->> 'pubgencols' = 's' AS has_generated,                -- from 18 on
       relation.oid AS relation,
       relation.relkind = 'p' AS is_partitioned,
       relation.relispartition AS is_partition,
       relation.relkind IN ('r', 'p') AS is_table,
       relation.relpersistence = 't' AS is_temporary,
       -- What puts the table in: an entry of its own, its schema's, or all tables.
       member.oid AS member,
       (SELECT entry.objid FROM pg_depend AS entry, pg_depend AS its_publication
         WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace') -- from 15 on
           AND entry.refclassid = 'pg_namespace'::regclass
           AND entry.refobjid = relation.relnamespace
           AND its_publication.classid = entry.classid
           AND its_publication.objid = entry.objid
           AND its_publication.refclassid = 'pg_publication'::regclass
           AND its_publication.refobjid = publication.oid) AS member_schema,
       publication.puballtables AS is_all_tables,
       to_jsonb(member) ->> 'prqual' IS NOT NULL AS is_filtered,                     -- from 15 on
       md5(to_jsonb(member) ->> 'prqual') AS row_filter,
       to_jsonb(member) ->> 'prattrs' AS column_list,
       -- Covered in the end: as itself or, where rows come under their partitions' names, by these.
       CASE WHEN publication.oid IS NULL OR relation.oid IS NULL THEN false
            ELSE (relation.relkind = 'p' AND NOT publication.pubviaroot
                  AND (member.oid IS NOT NULL OR publication.puballtables))
              -- What the view pg_publication_tables is made of, at half the planning.
              OR EXISTS (SELECT FROM pg_get_publication_tables(publication.pubname::text) AS covered
                          WHERE covered.relid = relation.oid)
       END AS is_covered
  FROM jsonb_array_elements(:'tables'::jsonb) WITH ORDINALITY AS wanted (names, number)
  LEFT JOIN pg_publication AS publication ON publication.pubname = :'publication'
  LEFT JOIN pg_namespace AS namespace ON namespace.nspname = wanted.names ->> 0
  LEFT JOIN pg_class AS relation
         ON relation.relnamespace = namespace.oid AND relation.relname = wanted.names ->> 1
  LEFT JOIN pg_publication_rel AS member
         ON member.prpubid = publication.oid AND member.prrelid = relation.oid
 ORDER BY wanted.number;
