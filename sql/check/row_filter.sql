-- Whether the publication can filter the rows of a table (from Postgres 15 on; not one that comes with its
-- schema or as all tables do), by which it does, and the columns that a filter may name: of built-in types.
--   psql -v publication=pgoutbox -v schema=public -v table=outbox_messages -f check/row_filter.sql
SELECT current_setting('server_version_num')::integer >= 150000
           AND (publication.oid IS NULL
                OR member.oid IS NOT NULL AND (publication.pubviaroot OR relation.relkind = 'r')) AS can_filter,
       (SELECT to_jsonb(published) ->> 'rowfilter' FROM pg_publication_tables AS published
         WHERE published.pubname = :'publication' AND published.schemaname = :'schema'
           AND published.tablename = :'table') AS filter,
       (SELECT coalesce(jsonb_object_agg(attribute.attname, format_type(attribute.atttypid, NULL)), '{}')
          FROM pg_attribute AS attribute
         WHERE attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
           AND attribute.atttypid < 16384 AND attribute.attcollation < 16384
           AND attribute.attgenerated = '')::text AS types,
       ARRAY(SELECT attribute.attname::text FROM pg_attribute AS attribute
              WHERE attribute.attrelid = relation.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped) AS columns
  FROM pg_class AS relation
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
  LEFT JOIN pg_publication AS publication ON publication.pubname = :'publication'
  LEFT JOIN pg_publication_rel AS member
         ON member.prpubid = publication.oid AND member.prrelid = relation.oid
 WHERE namespace.nspname = :'schema' AND relation.relname = :'table';
