-- Who paused the relay of a slot, and when. No row where nobody did.
--   psql -v slot=pgoutbox -f pause/state.sql
SELECT to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS paused_at, paused_by, note
  FROM pgoutbox.pause WHERE slot = :'slot';
