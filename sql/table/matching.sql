-- Tables whose names match a pattern of LIKE for the schema and one for the table, each with the number of
-- the first pattern that it matches. A version is another with each change of what decides whether a table
-- can be read and marked: its columns, rights on it and its place in the publication.
--   psql -v patterns='[["tenant\\_%", "outbox"]]' -v publication=pgoutbox -f table/matching.sql
-- Opens no table: one of them may be locked.
WITH publication AS (
    SELECT oid, xmin, puballtables FROM pg_publication WHERE pubname = :'publication'
), entry AS (                              -- FOR TABLES IN SCHEMA, from 15 on
    SELECT entry.refobjid AS namespace, string_agg(entry.objid::text, ',') AS version
      FROM publication
      JOIN pg_depend AS its_publication
        ON its_publication.refclassid = 'pg_publication'::regclass AND its_publication.refobjid = publication.oid
       AND its_publication.classid = to_regclass('pg_catalog.pg_publication_namespace')
      JOIN pg_depend AS entry
        ON entry.classid = its_publication.classid AND entry.objid = its_publication.objid
       AND entry.refclassid = 'pg_namespace'::regclass
     GROUP BY entry.refobjid
)
SELECT DISTINCT ON (namespace.nspname, relation.relname)
       (asked.number - 1)::integer AS pattern,
       namespace.nspname::text AS schema,
       relation.relname::text AS name,
       relation.oid AS relation,
       md5(concat_ws(' ', relation.xmin, namespace.xmin, publication.oid, publication.xmin, entry.version, member.xmin,
           (SELECT string_agg(format('%s %s', attribute.attnum, attribute.xmin), ',' ORDER BY attribute.attnum)
              FROM pg_attribute AS attribute
             WHERE attribute.attrelid = relation.oid AND attribute.attnum > 0))) AS version
  FROM jsonb_array_elements(:'patterns'::jsonb) WITH ORDINALITY AS asked (names, number)
  JOIN pg_namespace AS namespace ON namespace.nspname LIKE asked.names ->> 0
  JOIN pg_class AS relation
    ON relation.relnamespace = namespace.oid AND relation.relname LIKE asked.names ->> 1
  LEFT JOIN publication ON true
  LEFT JOIN entry ON entry.namespace = namespace.oid
  LEFT JOIN pg_publication_rel AS member
    ON member.prpubid = publication.oid AND member.prrelid = relation.oid
 WHERE relation.relkind IN ('r', 'p') AND relation.relpersistence <> 't' AND NOT relation.relispartition
   AND namespace.nspname !~ '^pg_' AND namespace.nspname NOT IN ('information_schema', 'pgoutbox')
 ORDER BY namespace.nspname, relation.relname, asked.number;
