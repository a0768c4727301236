-- One relay at a time makes a slot anew; the others wait. The lock goes with the session.
--   psql -v slot=pgoutbox -f catch_up_lock.sql
SELECT pg_try_advisory_lock(hashtextextended('pgoutbox.catch_up ' || :'slot', 0)) AS is_locked;
