-- What became of the tries of a parked event, the oldest first.
--   psql -v seq=7 -f event/tries.sql
SELECT tries::text AS tries FROM pgoutbox.parked WHERE seq = :'seq'::bigint;
