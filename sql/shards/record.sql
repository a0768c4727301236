-- Keeps over how many relays an outbox is spread, where nothing is kept yet.
--   psql -v slot=pgoutbox -v shards=2 -f shards/record.sql
INSERT INTO pgoutbox.layout (slot, shards) VALUES (:'slot', :'shards'::integer) ON CONFLICT DO NOTHING;
