-- The type of a table's id column, under which an index on it can be used; for a domain, the
-- type that it is made of.
--   psql -v relation=16384 -v id=id -f id_type.sql
WITH RECURSIVE type AS (
    SELECT type.typname, type.typbasetype, type.typnamespace
      FROM pg_attribute AS attribute JOIN pg_type AS type ON type.oid = attribute.atttypid
     WHERE attribute.attrelid = :'relation'::oid AND attribute.attname = :'id'
    UNION ALL
    SELECT base.typname, base.typbasetype, base.typnamespace
      FROM type JOIN pg_type AS base ON base.oid = type.typbasetype
)
SELECT typname::text AS name, typnamespace::regnamespace::text AS schema FROM type WHERE typbasetype = 0;
