-- The same slot as a failover slot: a standby that has sync_replication_slots on keeps a copy
-- of it. From Postgres 17 on.
--   psql -v slot=pgoutbox -v timeout=30s -f slot/create_failover.sql
SET statement_timeout = :'timeout';
SET lock_timeout = 0;
SELECT lsn::text AS lsn FROM pg_create_logical_replication_slot(:'slot', 'pgoutput', failover => true);
RESET statement_timeout;
RESET lock_timeout;
