-- Who reads a slot, as far as the connected role may see it: its own sessions, or all of them with
-- pg_read_all_stats. One row, or none where nobody does.
--   psql -v slot=pgoutbox -f check_slot_user.sql
SELECT slot.active_pid AS pid,
       nullif(activity.application_name, '') AS application_name,
       activity.usename::text AS role,
       coalesce(host(activity.client_addr), 'a local socket') AS address
  FROM pg_replication_slots AS slot
  JOIN pg_stat_activity AS activity ON activity.pid = slot.active_pid
 WHERE slot.slot_name = :'slot';
