-- Says that an outbox is about to be spread over another number of relays. From here on none begins, and those that
-- run finish what is in flight and end.
--   psql -v slot=pgoutbox -v shards=2 -v to=3 -f shards/begin.sql
INSERT INTO pgoutbox.layout AS layout (slot, shards, moving_to)
VALUES (:'slot', :'shards'::integer, :'to'::integer)
    ON CONFLICT (slot) DO UPDATE SET moving_to = excluded.moving_to, changed_at = now();
