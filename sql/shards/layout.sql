-- Over how many relays an outbox is spread, over how many it is about to be, and over how many it was, as long as slots
-- of that may be left. No row where it never was spread.
--   psql -v slot=pgoutbox -f shards/layout.sql
SELECT shards, moving_to, former FROM pgoutbox.layout WHERE slot = :'slot';
