-- What reconciliation and `pgoutbox verify` read, beside what marks need: which transaction wrote
-- a row, where it stands and, where the table says so, when it happened. No payload.
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
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
COMMIT;
