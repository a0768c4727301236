-- The marks of these are written.
--   $1 bigint[]: seq
DELETE FROM pgoutbox.parked
 WHERE seq IN (SELECT seq FROM pgoutbox.parked WHERE seq = ANY ($1) AND state = 'delivered' FOR UPDATE SKIP LOCKED);
