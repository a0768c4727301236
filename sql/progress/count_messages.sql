-- A session counts messages among the events of a transaction, or no longer does. A place in the middle
-- of one that was counted otherwise becomes its beginning: some of its events come again, none is left out.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v messages=true -f progress/count_messages.sql
UPDATE pgoutbox.progress
   SET messages = :'messages'::boolean, settled = 0
 WHERE slot = :'slot' AND session = :'session'::uuid
   AND set_config('synchronous_commit', 'local', true) = 'local';
