-- The columns of a table as the stream will show them.
--   psql -v relation=16389 -v publication=pgoutbox -f check_columns.sql
SELECT attribute.attname::text AS name,
       attribute.atttypid AS type_oid,
       format_type(attribute.atttypid, attribute.atttypmod) AS type_name,
       attribute.attgenerated::text AS generated,
       has_column_privilege(attribute.attrelid, attribute.attnum, 'SELECT') AS is_readable,
       -- null: the publication has no column list, or the server none at all (14)
       (SELECT nullif(to_jsonb(member) -> 'prattrs', 'null') @> to_jsonb(attribute.attnum::integer)
          FROM pg_publication_rel AS member
          JOIN pg_publication AS publication ON publication.oid = member.prpubid
         WHERE publication.pubname = :'publication' AND member.prrelid = attribute.attrelid) AS is_listed
  FROM pg_attribute AS attribute
 WHERE attribute.attrelid = :'relation'::oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
 ORDER BY attribute.attnum;
