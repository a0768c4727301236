-- Drops the slot, the publication and pgoutbox's own schema. Your outbox table stays, and so
-- does every row in it. Stop the relay first: a slot in use cannot be dropped.
--   psql -v slot=pgoutbox -v publication=pgoutbox -f init/uninstall.sql
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot';
DROP PUBLICATION IF EXISTS :"publication";
DROP SCHEMA IF EXISTS pgoutbox CASCADE;
