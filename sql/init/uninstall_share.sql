-- Drops the slot of one of several relays in a database, and what schema pgoutbox holds of it. What
-- the others need stays: the schema, the marks, and the publication, which another slot may read.
-- Stop the relay first: a slot in use cannot be dropped.
--   psql -v slot=pgoutbox -f init/uninstall_share.sql
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot';
DELETE FROM pgoutbox.catch_up_rows WHERE slot = :'slot';
DELETE FROM pgoutbox.catch_up WHERE slot = :'slot';
DELETE FROM pgoutbox.parked WHERE slot = :'slot';
DELETE FROM pgoutbox.pause WHERE slot = :'slot';
DELETE FROM pgoutbox.guard WHERE slot = :'slot';
DELETE FROM pgoutbox.progress WHERE slot = :'slot';
