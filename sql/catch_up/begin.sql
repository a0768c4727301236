-- Says that the slot is about to be recreated, before it is: as long as this stands, what the
-- slot streams is only half of what is to be relayed.
--   psql -v slot=pgoutbox -v why='the slot was dropped' -f catch_up/begin.sql
INSERT INTO pgoutbox.catch_up (slot, why, state)
SELECT :'slot', :'why', 'begun'
 WHERE set_config('synchronous_commit', 'local', true) = 'local'
ON CONFLICT (slot) DO UPDATE
   SET why = excluded.why, state = excluded.state, consistent_lsn = NULL, total = NULL, begun_at = now();
