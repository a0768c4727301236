-- One pass at a time, of however many relays and commands. It ends with the connection.
--   psql -v slot=pgoutbox -f prune_lock.sql
SELECT pg_try_advisory_lock(hashtextextended('pgoutbox prune ' || :'slot', 0)) AS is_free;
