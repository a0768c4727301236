-- The rows that wait are on a list, of a point of the slot's stream: all that passed by the slot are on it. From here on
-- events go to streams under another name, since others may come under the ids of before. Waits for the disk.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v coverage=4711 -f progress/listed.sql
UPDATE pgoutbox.progress SET coverage = :'coverage'::bigint, publishing_epoch = NULL
 WHERE slot = :'slot' AND session = :'session'::uuid
   AND set_config('synchronous_commit', 'local', true) = 'local';
