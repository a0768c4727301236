-- Where the outbox has columns in which a row shows the tries of its parked event, the relay
-- brings them up to date.
BEGIN;
-- They may not be there, and psql does not look into the dollar quotes below.
SELECT set_config('pgoutbox.grant', format('GRANT SELECT (%1$s), UPDATE (%1$s) ON %2$I.%3$I TO %4$I',
           string_agg(quote_ident(attname), ', ' ORDER BY attnum),
           :'schema'::text, :'table'::text, :'audit_role'::text), true)
  FROM pg_attribute
 WHERE attrelid = format('%I.%I', :'schema'::text, :'table'::text)::regclass
   AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
   AND (attname IN (:'attempt', :'last_error', :'failed_at') OR (:'failed_names'::jsonb) ? attname)
HAVING count(*) > 0;
DO $do$
BEGIN
    IF coalesce(current_setting('pgoutbox.grant', true), '') <> '' THEN
        EXECUTE current_setting('pgoutbox.grant');
    END IF;
END
$do$;
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT (:"id") ON :"schema".:"table" TO :"audit_role";
COMMIT;
