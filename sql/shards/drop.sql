-- Drops slots that nobody reads.
--   psql -v slots='["pgoutbox_0of2", "pgoutbox_1of2"]' -f shards/drop.sql
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE (:'slots'::jsonb) ? slot_name::text AND database = current_database() AND NOT active;
