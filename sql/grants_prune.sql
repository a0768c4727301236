-- What pruning needs beyond grants_*.sql: to the audit role where run prunes (prune.keep), or to
-- a role of its own that `pgoutbox prune` is run as from time to time. UPDATE of a column, since
-- Postgres asks it of FOR UPDATE, which passes over rows that somebody else has locked. To make
-- and drop partitions the table must be one's own: GRANT its owner to the role, or run
-- `pgoutbox prune` as the owner.
BEGIN;
-- The column of the time may not be there, and psql does not look into the dollar quotes below.
SELECT set_config('pgoutbox.grant', format('GRANT SELECT (%s) ON %I.%I TO %I',
           string_agg(quote_ident(attname), ', ' ORDER BY attnum),
           :'schema'::text, :'table'::text, :'audit_role'::text), true)
  FROM pg_attribute
 WHERE attrelid = format('%I.%I', :'schema'::text, :'table'::text)::regclass
   AND attname IN ('xmin', 'ctid', :'id', :'occurred_at');
DO $do$
BEGIN
    EXECUTE current_setting('pgoutbox.grant');
END
$do$;
GRANT USAGE ON SCHEMA :"schema", pgoutbox TO :"audit_role";
GRANT UPDATE (:"id"), DELETE ON :"schema".:"table" TO :"audit_role";
GRANT SELECT, DELETE, UPDATE ON pgoutbox.relayed, pgoutbox.parked TO :"audit_role";
COMMIT;
