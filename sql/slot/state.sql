-- The slot as the server sees it: one row, or none where it does not exist.
--   psql -v slot=pgoutbox -f slot/state.sql
SELECT slot.plugin::text AS plugin,
       slot.slot_type,
       slot.database::text AS database,
       slot.temporary AS is_temporary,
       slot.two_phase AS is_two_phase,
       slot.active AS is_active,
       slot.active_pid,
       slot.wal_status,                         -- lost: WAL it needs is gone
       slot.safe_wal_size,                      -- bytes until it may be lost; null: no limit
       to_jsonb(slot) ->> 'invalidation_reason' AS invalidation_reason, -- from Postgres 17 on
       (to_jsonb(slot) ->> 'failover')::boolean AS is_failover,         -- likewise
       coalesce((to_jsonb(slot) ->> 'synced')::boolean, false) AS is_synced, -- likewise; stays after a promotion
       slot.confirmed_flush_lsn::text AS confirmed_flush_lsn,
       slot.restart_lsn::text AS restart_lsn,
       pg_wal_lsn_diff(at.wal_lsn, slot.confirmed_flush_lsn)::bigint AS confirmed_lag_bytes,
       pg_wal_lsn_diff(at.wal_lsn, slot.restart_lsn)::bigint AS retained_wal_bytes
  FROM pg_replication_slots AS slot,
       LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                            ELSE pg_current_wal_flush_lsn() END AS wal_lsn) AS at
 WHERE slot.slot_name = :'slot';
