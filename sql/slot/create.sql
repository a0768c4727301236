-- The replication slot. It waits for every transaction that is writing right now, in any
-- database. It waits for each by a lock, so a lock_timeout must not be shorter; the timeout is the
-- server's own, since a client that just gives up leaves the server waiting, and then a slot that
-- nobody knows of. From now on WAL is kept until the relay has read it. Rows committed before are
-- not in it; `pgoutbox init` lists those as well.
--   psql -v slot=pgoutbox -v timeout=30s -v options= -f slot/create.sql
-- options: ', failover => true', from Postgres 17 on: a standby that has sync_replication_slots on keeps
-- a copy of it.
SET statement_timeout = :'timeout';
SET lock_timeout = 0;
SELECT lsn::text AS lsn FROM pg_create_logical_replication_slot(:'slot', 'pgoutput' :options);
RESET statement_timeout;
RESET lock_timeout;
