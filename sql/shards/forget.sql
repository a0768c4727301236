-- Nothing of an outbox is left that was spread.
--   psql -v slot=pgoutbox -f shards/forget.sql
DELETE FROM pgoutbox.layout WHERE slot = :'slot';
