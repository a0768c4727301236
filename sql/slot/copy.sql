-- A slot that begins where another stands, which stays where it is. Nobody may read that one meanwhile.
--   psql -v from=debezium -v slot=pgoutbox -f slot/copy.sql
SELECT lsn::text AS lsn FROM pg_copy_logical_replication_slot(:'from', :'slot', false, 'pgoutput');
