-- How the guard last found the WAL. No row: nothing to say, or it never looked.
--   psql -v slot=pgoutbox -f guard/guard.sql
SELECT level, verdict::text AS verdict,
       to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
       to_char(seen_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS seen_at
  FROM pgoutbox.guard WHERE slot = :'slot';
