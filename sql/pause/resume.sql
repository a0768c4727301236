-- Has the relay of a slot publish again. A relay that runs hears of it at once. No row where it
-- was not paused.
--   psql -v slot=pgoutbox -f pause/resume.sql
WITH resumed AS (
    DELETE FROM pgoutbox.pause WHERE slot = :'slot' RETURNING slot, paused_at, paused_by
)
SELECT to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS paused_at, paused_by,
       pg_notify('pgoutbox_parked', slot::text)::text AS told
  FROM resumed;
