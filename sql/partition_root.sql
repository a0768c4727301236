-- A relation and all that it is a partition of, itself first; none where it is gone. And whether the
-- publication has it today, be it as itself or as a partition.
--   psql -v relation=16389 -v publication=pgoutbox -f partition_root.sql
WITH family AS (
    SELECT :'relation'::oid AS relid, 0 AS depth
    UNION ALL
    SELECT up.relid, up.depth::integer
      FROM pg_partition_ancestors(:'relation'::oid) WITH ORDINALITY AS up (relid, depth)
     WHERE up.relid <> :'relation'::oid
)
SELECT namespace.nspname::text AS schema, relation.relname::text AS name,
       EXISTS (SELECT FROM pg_publication AS publication,
                           pg_get_publication_tables(publication.pubname::text) AS covered
                WHERE publication.pubname = :'publication'
                  AND covered.relid IN (SELECT relid FROM family)) AS is_published
  FROM family
  JOIN pg_class AS relation ON relation.oid = family.relid
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 ORDER BY family.depth;
