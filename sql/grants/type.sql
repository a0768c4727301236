-- The schema of the id's type, where an extension or the user made that: ids are cast to it.
--   psql -v schema=public -v table=outbox_messages -v id=id -v audit_role=pgoutbox_audit -f grants/type.sql
BEGIN;
-- psql does not look into the dollar quotes below.
WITH RECURSIVE type AS (
    SELECT type.typbasetype, type.typnamespace
      FROM pg_attribute AS attribute JOIN pg_type AS type ON type.oid = attribute.atttypid
     WHERE attribute.attrelid = format('%I.%I', :'schema'::text, :'table'::text)::regclass
       AND attribute.attname = :'id'
    UNION ALL
    SELECT base.typbasetype, base.typnamespace FROM type JOIN pg_type AS base ON base.oid = type.typbasetype
)
SELECT set_config('pgoutbox.grant', format('GRANT USAGE ON SCHEMA %s TO %I', typnamespace::regnamespace, :'audit_role'::text), true)
  FROM type WHERE typbasetype = 0 AND typnamespace <> 'pg_catalog'::regnamespace;
DO $do$
BEGIN
    IF coalesce(current_setting('pgoutbox.grant', true), '') <> '' THEN
        EXECUTE current_setting('pgoutbox.grant');
    END IF;
END
$do$;
COMMIT;
