-- Records that changed lately, and that rows of the outbox are to show: see parked/show.sql.
--   $1 bigint[]: records that are left out
--   psql -v relation=16389 -f parked/changed.sql
SELECT parked.seq
  FROM pgoutbox.parked AS parked
 WHERE parked.outbox = :'relation'::oid::regclass
   AND parked.changed_at > now() - interval '1 minute' AND parked.state NOT IN ('queued', 'delivered')
   AND parked.seq <> ALL ($1::bigint[])
 ORDER BY parked.seq;
