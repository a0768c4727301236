-- Who reads a slot. One row, or none where nobody does. The name of a session is shown to every role, its
-- address to itself and those with pg_read_all_stats.
--   psql -v slot=pgoutbox -f check/slot_user.sql
SELECT slot.active_pid AS pid,
       coalesce(activity.application_name, '') AS application_name,
       coalesce(activity.usename::text, '') AS role,
       coalesce(host(activity.client_addr),
                CASE WHEN activity.backend_type IS NULL THEN 'at an address that is not shown'
                     ELSE 'a local socket' END) AS address
  FROM pg_replication_slots AS slot
  JOIN pg_stat_activity AS activity ON activity.pid = slot.active_pid
 WHERE slot.slot_name = :'slot';
