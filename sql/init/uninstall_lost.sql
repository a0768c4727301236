-- What goes with schema pgoutbox and stands nowhere else, of one slot.
--   psql -v slot=pgoutbox -f init/uninstall_lost.sql
SELECT count(*) FILTER (WHERE state IN ('parked', 'queued', 'failed') AND prefix IS NOT NULL) AS messages,
       count(*) FILTER (WHERE state IN ('parked', 'queued', 'failed') AND prefix IS NULL) AS parked,
       count(*) FILTER (WHERE state = 'discarded') AS discarded,
       (SELECT count(*) FROM pgoutbox.relayed) AS marks
  FROM pgoutbox.parked WHERE slot = :'slot';
