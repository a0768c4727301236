-- Two roles with the least that the relay needs, made where missing. Give each a password
-- (\password in psql). Then run one grants_*.sql, by audit.mode, for each table.
--   psql -v stream_role=pgoutbox_stream -v audit_role=pgoutbox_audit -v database=app -f init/roles.sql
BEGIN;
-- psql does not look into the dollar quotes below; settings take the names there.
SELECT set_config('pgoutbox.stream_role', :'stream_role', true),
       set_config('pgoutbox.audit_role', :'audit_role', true);
DO $do$
BEGIN
    -- Streams. REPLICATION reads every table of every database that the role may connect to,
    -- without any table privilege: guard it like a superuser's password. In pg_hba.conf the
    -- database's own line matters; a "replication" line would allow a physical copy as well.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_setting('pgoutbox.stream_role')) THEN
        EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', current_setting('pgoutbox.stream_role'));
    END IF;
    -- Marks, checks and keeps the progress.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_setting('pgoutbox.audit_role')) THEN
        EXECUTE format('CREATE ROLE %I LOGIN', current_setting('pgoutbox.audit_role'));
    END IF;
END
$do$;
GRANT CONNECT ON DATABASE :"database" TO :"stream_role", :"audit_role";
GRANT USAGE ON SCHEMA pgoutbox TO :"audit_role";
-- To write there is for the console's actions only; the relay itself looks.
GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.pause TO :"audit_role";
GRANT SELECT, INSERT, UPDATE, DELETE ON pgoutbox.parked, pgoutbox.catch_up, pgoutbox.catch_up_rows TO :"audit_role";
-- Everybody's, unless somebody altered the default privileges.
GRANT EXECUTE ON FUNCTION pgoutbox.parked_queue(name, text, text), pgoutbox.parked_places(name) TO :"audit_role";
GRANT SELECT, INSERT, UPDATE ON pgoutbox.progress, pgoutbox.guard TO :"audit_role";
GRANT SELECT ON pgoutbox.relayed TO :"audit_role";
COMMIT;
