-- The row of one parked event, as the stream brought it.
--   psql -v seq=7 -f parked/row.sql
SELECT columns::text AS columns, cells FROM pgoutbox.parked WHERE seq = :'seq'::bigint;
