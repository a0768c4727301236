-- The catch-up is over.
--   psql -v slot=pgoutbox -f catch_up/finish.sql
DELETE FROM pgoutbox.catch_up WHERE slot = :'slot';
