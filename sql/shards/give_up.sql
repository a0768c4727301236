-- An outbox stays spread as it is.
--   psql -v slot=pgoutbox -f shards/give_up.sql
UPDATE pgoutbox.layout SET moving_to = NULL, changed_at = now() WHERE slot = :'slot';
