-- What is known of the name that a slot's events are published to streams under: its number, whether the server runs
-- on since that was found to be right, and when the server was started, in microseconds since 2000-01-01 UTC, as
-- commits say their time; and the highest id that a stream has confirmed under it.
--   psql -v slot=pgoutbox -f progress/known_name.sql
SELECT publishing_epoch, confirmed_id,
       publishing_start IS NOT DISTINCT FROM pg_postmaster_start_time() AS is_same_start,
       (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint - 946684800000000 AS started
  FROM pgoutbox.progress WHERE slot = :'slot';
