-- The next may.
--   psql -v slot=pgoutbox -f catch_up_unlock.sql
SELECT pg_advisory_unlock(hashtextextended('pgoutbox.catch_up ' || :'slot', 0));
