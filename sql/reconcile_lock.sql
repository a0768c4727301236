-- One reconciliation for each slot, however many relays stand by. Held until its connection ends.
--   psql -v slot=pgoutbox -f reconcile_lock.sql
SELECT pg_try_advisory_lock(hashtext('pgoutbox reconcile'), hashtext(:'slot')) AS is_ours;
