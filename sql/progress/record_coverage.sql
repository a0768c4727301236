-- Remembers by what the publication covers the tables, once that was verified: where it is another
-- when the next session begins, rows may have passed by the slot. 0: rows did, and are still to
-- be caught up with. Waits for the disk.
--   psql -v slot=pgoutbox -v coverage=4711 -f progress/record_coverage.sql
UPDATE pgoutbox.progress SET coverage = :'coverage'::bigint
 WHERE slot = :'slot' AND coverage IS DISTINCT FROM :'coverage'::bigint
   AND set_config('synchronous_commit', 'local', true) = 'local';
