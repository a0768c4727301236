-- The type of a table's id column, under which an index on it can be used; for a domain, the
-- type that it is made of. Operators of a type that an extension brings are found by the search path
-- only, so the schema of such a type is added to this session's.
--   psql -v relation=16384 -v id=id -f table/id_type.sql
WITH RECURSIVE type AS (
    SELECT type.typname, type.typbasetype, type.typnamespace
      FROM pg_attribute AS attribute JOIN pg_type AS type ON type.oid = attribute.atttypid
     WHERE attribute.attrelid = :'relation'::oid AND attribute.attname = :'id'
    UNION ALL
    SELECT base.typname, base.typbasetype, base.typnamespace
      FROM type JOIN pg_type AS base ON base.oid = type.typbasetype
)
SELECT type.typname::text AS name, namespace.nspname::text AS schema,
       CASE WHEN namespace.nspname <> ALL (current_schemas(true))
            THEN set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''),
                                                     quote_ident(namespace.nspname)), false) END AS search_path
  FROM type JOIN pg_namespace AS namespace ON namespace.oid = type.typnamespace
 WHERE type.typbasetype = 0;
