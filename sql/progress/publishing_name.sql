-- The number in the name that a slot's events are published to streams under, and which streams they go to while
-- some may be in flight. A new number where there is none, or
-- where it is to be renewed: then what is sent again is there again. In microseconds: two names of one second must
-- differ, or the broker drops what is sent under the second. With it stands under which start of the server it is
-- known to be right: a copy of the server's files is started again. Waits for the disk, before anything is sent.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v renews=false -v routes='[{"of": "public.outbox_messages", "to": {"stream": "orders"}}]' -f progress/publishing_name.sql
UPDATE pgoutbox.progress
   SET publishing_epoch = CASE WHEN :'renews'::boolean OR publishing_epoch IS NULL
                               THEN greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, publishing_epoch + 1)
                               ELSE publishing_epoch END,
       -- Under another name nothing is confirmed.
       confirmed_id = CASE WHEN :'renews'::boolean OR publishing_epoch IS NULL THEN 0 ELSE confirmed_id END,
       routes = :'routes'::jsonb,
       publishing_start = pg_postmaster_start_time()
 WHERE slot = :'slot' AND session = :'session'::uuid
   AND set_config('synchronous_commit', 'local', true) = 'local'
RETURNING publishing_epoch;
