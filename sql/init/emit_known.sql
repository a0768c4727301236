-- Whether the functions of init/emit.sql are there, all of them with these bodies.
--   psql -v bodies='["...", ...]' -f init/emit_known.sql
SELECT count(*) = jsonb_array_length(:'bodies'::jsonb) AND coalesce(bool_and(:'bodies'::jsonb ? own.prosrc), false) AS is_same,
       count(*) > 0 AS is_there
  FROM pg_proc AS own
  JOIN pg_namespace AS namespace ON namespace.oid = own.pronamespace
 WHERE namespace.nspname = 'pgoutbox' AND own.proname IN ('emit', 'emit_envelope');
