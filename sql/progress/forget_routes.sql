-- Nothing is in flight any more: the next session may send events to other streams. Waits for the disk.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -f progress/forget_routes.sql
UPDATE pgoutbox.progress
   SET routes = NULL
 WHERE slot = :'slot' AND session = :'session'::uuid
   AND set_config('synchronous_commit', 'local', true) = 'local';
