-- The list is whole. Inserted where somebody took the note of it away meanwhile, or none was made, since the slot
-- stays: without it the list would not be read.
--   psql -v slot=pgoutbox -v why='the slot was dropped' -v consistent_lsn=0/16B3748 -f catch_up/listed.sql
INSERT INTO pgoutbox.catch_up (slot, why, state, consistent_lsn, total)
VALUES (:'slot', :'why', 'listed', :'consistent_lsn',
        (SELECT count(*) FROM pgoutbox.catch_up_rows WHERE slot = :'slot'))
ON CONFLICT (slot) DO UPDATE
   SET why = excluded.why, state = excluded.state, consistent_lsn = excluded.consistent_lsn, total = excluded.total, begun_at = now();
COMMIT;
