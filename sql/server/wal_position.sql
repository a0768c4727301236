-- Where the WAL ends, and up to where it is on disk.
SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn();
