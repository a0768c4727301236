-- Drops a slot before its WAL fills the disk. Its walsender is ended first, if it is a relay of
-- ours. A row for each step that was done; none where somebody else uses the slot, or it is gone.
--   psql -v slot=pgoutbox -v application_name=pgoutbox/pgoutbox -f slot/drop.sql
SELECT pg_terminate_backend(slot.active_pid, 5000)
  FROM pg_replication_slots AS slot
  JOIN pg_stat_replication AS sender ON sender.pid = slot.active_pid
 WHERE slot.slot_name = :'slot' AND sender.application_name = :'application_name';
SELECT pg_drop_replication_slot(slot_name)
  FROM pg_replication_slots WHERE slot_name = :'slot' AND NOT active;
