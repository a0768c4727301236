-- Whether the functions of init/emit.sql are there, all of them with these bodies.
--   psql -v bodies='["...", ...]' -f init/emit_known.sql
SELECT count(DISTINCT own.prosrc) = jsonb_array_length(:'bodies'::jsonb) AND coalesce(bool_and(:'bodies'::jsonb ? own.prosrc), false)
           -- One for each form of a payload.
           AND count(*) FILTER (WHERE own.proname = 'emit') = count(*) FILTER (WHERE own.proname = 'emit_payload') AS is_same,
       count(*) > 0 AS is_there
  FROM pg_proc AS own
  JOIN pg_namespace AS namespace ON namespace.oid = own.pronamespace
 WHERE namespace.nspname = 'pgoutbox' AND own.proname IN ('emit', 'emit_envelope', 'emit_payload');
