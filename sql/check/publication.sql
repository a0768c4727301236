-- Whether the publication still brings every outbox table into the stream, whole. The relay asks
-- this each second while WAL moves, since Postgres 18 passes over a missing publication in
-- silence, and every version does so for a table that left it. One row per table; the oids
-- tell a publication, table or membership that was dropped and made again.
--   psql -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f check/publication.sql
-- Rows of the catalog only: what opens a table (pg_get_publication_tables from 16 on,
-- pg_partition_tree) waits for whoever has locked one of them.
WITH RECURSIVE wanted AS (
    SELECT (asked.number - 1)::integer AS number, relation.oid, relation.xmin, relation.relkind,
           relation.relpersistence, relation.relispartition, relation.relnamespace, relation.reltype
      FROM jsonb_array_elements(:'tables'::jsonb) WITH ORDINALITY AS asked (names, number)
      LEFT JOIN pg_namespace AS namespace ON namespace.nspname = asked.names ->> 0
      LEFT JOIN pg_class AS relation
             ON relation.relnamespace = namespace.oid AND relation.relname = asked.names ->> 1
), above (number, oid, link) AS (          -- what they are partitions of
    SELECT wanted.number, link.inhparent, link.xmin::text
      FROM wanted JOIN pg_inherits AS link ON link.inhrelid = wanted.oid
     WHERE wanted.relispartition AND NOT link.inhdetachpending
     UNION
    SELECT above.number, link.inhparent, link.xmin::text
      FROM above JOIN pg_inherits AS link ON link.inhrelid = above.oid
     WHERE NOT link.inhdetachpending
), below (number, parent, oid) AS (        -- their partitions, and what inherits from them
    SELECT wanted.number, wanted.oid, link.inhrelid
      FROM wanted JOIN pg_inherits AS link ON link.inhparent = wanted.oid
     UNION
    SELECT below.number, link.inhparent, link.inhrelid
      FROM below JOIN pg_inherits AS link ON link.inhparent = below.oid
), part AS (
    SELECT below.number, format('%I.%I', namespace.nspname, relation.relname) AS name,
           relation.relkind, relation.relpersistence, relation.relispartition, below.parent
      FROM below
      JOIN pg_class AS relation ON relation.oid = below.oid
      JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
     WHERE NOT relation.relispartition OR relation.relkind = 'f' OR relation.relpersistence = 'u'
), member_schema AS (                      -- FOR TABLES IN SCHEMA, from 15 on
    SELECT entry.objid AS oid, entry.refobjid AS namespace, its_publication.refobjid AS publication,
           entry.xmin AS made
      FROM pg_depend AS entry
      JOIN pg_depend AS its_publication
        ON its_publication.classid = entry.classid AND its_publication.objid = entry.objid
       AND its_publication.refclassid = 'pg_publication'::regclass
     WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace')
       AND entry.refclassid = 'pg_namespace'::regclass
)
SELECT wanted.number,
       publication.oid AS publication,
       -- Another with each change: one that was taken back leaves nothing else.
       publication.xmin::text AS publication_version,
       publication.pubowner AS owner,
       -- A table that comes with its schema leaves it without a trace in the publication; that it
       -- is in the schema is an entry too.
       CASE WHEN member.oid IS NULL AND NOT publication.puballtables
            THEN (SELECT place.xmin::text FROM pg_depend AS place
                   WHERE place.classid = 'pg_class'::regclass AND place.objid = wanted.oid
                     AND place.objsubid = 0 AND place.refclassid = 'pg_namespace'::regclass)
            ELSE member.xmin::text END AS member_version,
       publication.pubinsert AS inserts,
       publication.pubupdate AS updates,
       publication.pubdelete AS deletes,
       publication.pubtruncate AS truncates,
       publication.pubviaroot AS is_via_root,
       -- From 18 on. With .*, since member_schema has a column of that name.
       to_jsonb(publication.*) ->> 'pubgencols' = 's' AS has_generated,
       wanted.oid AS relation,
       wanted.relkind = 'p' AS is_partitioned,
       wanted.relispartition AS is_partition,
       wanted.relkind IN ('r', 'p') AS is_table,
       wanted.relpersistence = 't' AS is_temporary,
       wanted.relpersistence = 'u' AS is_unlogged,
       -- What puts the table in: an entry of its own, its schema's, or all tables.
       member.oid AS member,
       member_schema.oid AS member_schema,
       is_in.part_of,
       publication.puballtables AS is_all_tables,
       -- It was in the publication before it was made, or is since the transaction that made it: which. What
       -- says when it was made, its ctid is never altered.
       age(entry.made) > age(made.xmin) AND age(made.xmin) BETWEEN 0 AND 1000000000 AS is_older,
       CASE WHEN entry.made = made.xmin THEN made.xmin::text END AS made_with,
       -- The last that may have given it its name of today, or its schema, since it was made: the row type has the
       -- table's name, and no GRANT on the table alters it.
       (SELECT named.by::text
          FROM (SELECT type.xmin FROM pg_type AS type WHERE type.oid = wanted.reltype
                UNION ALL
                SELECT namespace.xmin FROM pg_namespace AS namespace WHERE namespace.oid = wanted.relnamespace) AS named (by)
         WHERE age(named.by) < age(made.xmin)
         ORDER BY age(named.by) LIMIT 1) AS named_by,
       to_jsonb(member) ->> 'prqual' IS NOT NULL AS is_filtered,                     -- from 15 on
       md5(to_jsonb(member) ->> 'prqual') AS row_filter,
       to_jsonb(member) ->> 'prattrs' AS column_list,
       -- As itself, or as a part of what is published; under the name of the latter where rows come
       -- under their root's.
       coalesce(CASE WHEN publication.pubviaroot THEN is_in.by_itself AND NOT is_in.as_a_part
                     ELSE is_in.by_itself OR is_in.as_a_part END
                AND wanted.relkind IN ('r', 'p'), false) AS is_covered,
       -- Rows of these are not in the WAL, or come under names that nobody looks for.
       ARRAY(SELECT name FROM part WHERE part.number = wanted.number AND part.parent = wanted.oid
                AND NOT part.relispartition ORDER BY 1) AS children,
       ARRAY(SELECT name FROM part WHERE part.number = wanted.number AND part.relkind = 'r'
                AND part.relpersistence = 'u' AND part.relispartition ORDER BY 1) AS unlogged,
       ARRAY(SELECT name FROM part WHERE part.number = wanted.number AND part.relkind = 'f'
                AND part.relispartition ORDER BY 1) AS foreign_leaves
  FROM wanted
  LEFT JOIN pg_publication AS publication ON publication.pubname = :'publication'
  LEFT JOIN pg_publication_rel AS member
         ON member.prpubid = publication.oid AND member.prrelid = wanted.oid
  LEFT JOIN member_schema
         ON member_schema.publication = publication.oid AND member_schema.namespace = wanted.relnamespace
 CROSS JOIN LATERAL (
       SELECT member.oid IS NOT NULL OR member_schema.oid IS NOT NULL OR publication.puballtables AS by_itself,
              coalesce(bool_or(publication.puballtables OR its.oid IS NOT NULL OR its_schema.oid IS NOT NULL),
                       false) AS as_a_part,
              string_agg(format('%s %s %s %s', above.oid, above.link, its.oid, its_schema.oid), ', ' ORDER BY above.oid)
                  AS part_of
         FROM above
         JOIN pg_class AS ancestor ON ancestor.oid = above.oid
         LEFT JOIN pg_publication_rel AS its ON its.prpubid = publication.oid AND its.prrelid = above.oid
         LEFT JOIN member_schema AS its_schema
                ON its_schema.publication = publication.oid AND its_schema.namespace = ancestor.relnamespace
        WHERE above.number = wanted.number) AS is_in
  LEFT JOIN pg_attribute AS made ON made.attrelid = wanted.oid AND made.attnum = -1
 CROSS JOIN LATERAL (
       SELECT CASE WHEN member.oid IS NOT NULL THEN member.xmin
                   WHEN member_schema.oid IS NOT NULL THEN member_schema.made
                   WHEN publication.puballtables THEN publication.xmin END AS made) AS entry
 ORDER BY wanted.number;
