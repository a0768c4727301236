-- Whether nobody has a lock on all of the parking, without waiting for it: an error where somebody has.
--   psql -f parked/free.sql
DO $$
BEGIN
    LOCK TABLE pgoutbox.parked IN ROW EXCLUSIVE MODE NOWAIT;
    LOCK TABLE pgoutbox.pause IN ACCESS SHARE MODE NOWAIT;
END
$$;
