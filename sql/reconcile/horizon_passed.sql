-- Whether the slot has passed an LSN. No row: there is no slot.
--   psql -v slot=pgoutbox -v lsn=0/16B3748 -f reconcile/horizon_passed.sql
SELECT confirmed_flush_lsn >= :'lsn'::pg_lsn AS is_passed, active AS is_active,
       pg_wal_lsn_diff(:'lsn'::pg_lsn, confirmed_flush_lsn)::bigint AS behind_bytes
  FROM pg_replication_slots WHERE slot_name = :'slot';
