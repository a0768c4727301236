-- The next records of events that are done with, dead-lettered or discarded long ago.
--   $1 bigint: most records, $2 float8: age in seconds, $3 bigint: after this one,
--   $4 bigint[]: which are passed over
SELECT parked.seq
  FROM pgoutbox.parked
 WHERE parked.slot = :'slot' AND parked.outbox = :'relation'::oid::regclass
   AND parked.state IN ('dead_lettered', 'discarded', 'delivered')
   AND parked.changed_at < now() - $2::float8 * interval '1 second'
   AND parked.seq > $3::bigint AND parked.seq <> ALL ($4::bigint[])
 ORDER BY parked.seq LIMIT $1;
