-- The slot's row of pgoutbox.progress.
--   psql -v slot=pgoutbox -f progress/progress.sql
SELECT end_lsn::text AS end_lsn, commit_lsn::text AS commit_lsn, settled, timeline,
       system_identifier, to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS updated_at,
       extract(epoch FROM now() - updated_at)::float8 AS age_seconds, fault::text AS fault,
       to_char(fault_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS fault_at,
       extract(epoch FROM now() - fault_at)::float8 AS fault_seconds
  FROM pgoutbox.progress WHERE slot = :'slot';
