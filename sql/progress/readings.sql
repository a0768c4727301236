-- By what the changes before the place were told to be events. Waits for the disk, before anything is settled that
-- another session would take for delivered.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v readings='{"publication": "pgoutbox", "of": {"16389": "RowRule([])"}}' -f progress/readings.sql
UPDATE pgoutbox.progress SET readings = :'readings'::jsonb
 WHERE slot = :'slot' AND session = :'session'::uuid AND readings IS DISTINCT FROM :'readings'::jsonb
   AND set_config('synchronous_commit', 'local', true) = 'local';
