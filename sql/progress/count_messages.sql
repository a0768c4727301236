-- A session counts messages among the events of a transaction, or no longer does. A place in the middle
-- of one that was counted otherwise becomes its beginning: some of its events come again, none is left out.
-- They come under other publishing ids, so a stream has to know them by another name: under this one it would
-- drop those whose ids others had.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v messages=true -f progress/count_messages.sql
UPDATE pgoutbox.progress
   SET messages = :'messages'::boolean, settled = 0, publishing_epoch = NULL
 WHERE slot = :'slot' AND session = :'session'::uuid
   AND set_config('synchronous_commit', 'local', true) = 'local';
