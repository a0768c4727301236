-- The columns of a table as the stream will show them.
--   psql -v relation=16389 -v publication=pgoutbox -f check/columns.sql
SELECT attribute.attname::text AS name,
       -- Of a domain, the type at the bottom. Types of a user's own that are no single value are told
       -- by their kind: record, anyrange, anyarray.
       (WITH RECURSIVE chain AS (
            SELECT type.oid, type.typbasetype, type.typtype, type.typcategory
              FROM pg_type AS type WHERE type.oid = attribute.atttypid
            UNION ALL
            SELECT base.oid, base.typbasetype, base.typtype, base.typcategory
              FROM chain JOIN pg_type AS base ON base.oid = chain.typbasetype)
        SELECT CASE WHEN chain.oid < 16384 THEN chain.oid
                    WHEN chain.typtype = 'c' THEN 'record'::regtype::oid
                    WHEN chain.typtype IN ('r', 'm') THEN 'anyrange'::regtype::oid
                    WHEN chain.typcategory = 'A' THEN 'anyarray'::regtype::oid
                    ELSE chain.oid END
          FROM chain WHERE chain.typbasetype = 0) AS type_oid,
       format_type(attribute.atttypid, attribute.atttypmod) AS type_name,
       attribute.attgenerated::text AS generated,
       has_column_privilege(attribute.attrelid, attribute.attnum, 'SELECT') AS is_readable,
       -- Not of a partitioned table.
       pg_relation_filenode(attribute.attrelid) IS NOT NULL AS has_file,
       -- null: the publication has no column list, or the server none at all (14)
       (SELECT nullif(to_jsonb(member) -> 'prattrs', 'null') @> to_jsonb(attribute.attnum::integer)
          FROM pg_publication_rel AS member
          JOIN pg_publication AS publication ON publication.oid = member.prpubid
         WHERE publication.pubname = :'publication' AND member.prrelid = attribute.attrelid) AS is_listed
  FROM pg_attribute AS attribute
 WHERE attribute.attrelid = :'relation'::oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
 ORDER BY attribute.attnum;
