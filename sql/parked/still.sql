-- Of parked events whose outcome was written, those that still show none: somebody has a lock on them.
--   $1 bigint[]: seq
SELECT seq FROM pgoutbox.parked WHERE seq = ANY ($1) AND claimed_at IS NOT NULL ORDER BY seq;
