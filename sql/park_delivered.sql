-- Parked events that were delivered after all.
--   $1 bigint[]: seq
DELETE FROM pgoutbox.parked WHERE seq = ANY ($1);
