-- Nothing is left of the slots before.
--   psql -v slot=pgoutbox -f shards/cleared.sql
UPDATE pgoutbox.layout SET former = NULL WHERE slot = :'slot';
