-- One partition. Made beside the table and then attached: so the table is never locked against
-- writers, as it would be by CREATE TABLE ... PARTITION OF. But for the default partition, which
-- is read through under a lock: not for longer than the timeout. The comment says whose it is: only
-- what has it is ever dropped.
--   psql -v schema=public -v table=outbox_messages -v partition=outbox_messages_d20270101 \
--        -v lower='2027-01-01 00:00:00+00' -v upper='2027-01-02 00:00:00+00' \
--        -v comment='pgoutbox made this partition' -f partition/create.sql
BEGIN;
SET LOCAL lock_timeout = '2s';
SET LOCAL statement_timeout = '2s';
CREATE TABLE :"schema".:"partition" (LIKE :"schema".:"table" INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01,
          autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE :"schema".:"table" ATTACH PARTITION :"schema".:"partition"
    FOR VALUES FROM (:'lower') TO (:'upper');
-- Whoever may do something to the table may do it to the partition: some statements go to it directly.
SELECT set_config('pgoutbox.outbox', format('%I.%I', :'schema'::text, :'table'::text), true),
       set_config('pgoutbox.partition', format('%I.%I', :'schema'::text, :'partition'::text), true);
DO $do$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('GRANT %s ON %s TO %s', granted.privilege_type, current_setting('pgoutbox.partition'),
                      CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END)
          FROM pg_class AS relation, aclexplode(relation.relacl) AS granted
         WHERE relation.oid = current_setting('pgoutbox.outbox')::regclass AND granted.grantee <> relation.relowner
        UNION ALL
        SELECT format('GRANT %s (%I) ON %s TO %s', granted.privilege_type, attribute.attname,
                      current_setting('pgoutbox.partition'),
                      CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END)
          FROM pg_attribute AS attribute, aclexplode(attribute.attacl) AS granted
         WHERE attribute.attrelid = current_setting('pgoutbox.outbox')::regclass AND NOT attribute.attisdropped
    LOOP
        EXECUTE command;
    END LOOP;
END
$do$;
COMMENT ON TABLE :"schema".:"partition" IS :'comment';
COMMIT;
