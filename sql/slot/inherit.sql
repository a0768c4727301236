-- What is kept of one slot becomes that of another, which begins where it stands: how far it is settled,
-- what is parked and what is on a list. Nothing where the slot was no relay's.
--   psql -v from=orders -v slot=pgoutbox -f slot/inherit.sql
UPDATE pgoutbox.parked SET slot = :'slot', claimed_at = NULL WHERE slot = :'from';
UPDATE pgoutbox.catch_up_rows SET slot = :'slot' WHERE slot = :'from';
UPDATE pgoutbox.catch_up SET slot = :'slot' WHERE slot = :'from';
UPDATE pgoutbox.pause SET slot = :'slot' WHERE slot = :'from';
DELETE FROM pgoutbox.guard WHERE slot = :'slot';
-- That the other was a relay's stays known: it keeps WAL until it is dropped.
INSERT INTO pgoutbox.guard (slot, level, verdict)
SELECT slot, 'calm', '{}' FROM pgoutbox.progress WHERE slot = :'from'
    ON CONFLICT DO NOTHING;
-- A session that still writes under the old name is refused: its row is gone. To streams it is another name: they have
-- nothing under it yet.
UPDATE pgoutbox.progress SET slot = :'slot', session = NULL, confirmed_id = 0 WHERE slot = :'from';
