-- Takes a turn that only one process may have at a time, and holds it until the transaction ends.
-- By the transaction and not by the session: behind a pooler that lends a connection for each
-- transaction, a lock of the session would stay with a connection that others get next. The
-- transaction takes no snapshot and no id, so VACUUM and new slots do not wait for it.
--   psql -v turn='pgoutbox prune pgoutbox' -f server/turn.sql
BEGIN;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT set_config(name, '0', true) AS until FROM pg_settings WHERE name = 'transaction_timeout';
SELECT pg_try_advisory_xact_lock(hashtextextended(:'turn', 0)) AS is_ours;
