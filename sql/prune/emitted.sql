-- Records of emitted events that are done with, dead-lettered or discarded long ago: such an event has no row. A
-- dry statement counts all, since it deletes none.
--   psql -v slot=pgoutbox -v prefix=orders -v keep=2592000 -v batch=1000 -v dry=false -f prune/emitted.sql
WITH old AS MATERIALIZED (
    SELECT parked.seq
      FROM pgoutbox.parked
     WHERE parked.slot = :'slot' AND parked.outbox::oid = 0 AND parked.prefix = :'prefix'
       AND parked.state IN ('dead_lettered', 'discarded', 'delivered')
       AND parked.changed_at < now() - :'keep'::float8 * interval '1 second'
     ORDER BY parked.seq
     LIMIT CASE WHEN NOT :'dry'::boolean THEN :'batch'::bigint END
       FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM pgoutbox.parked
     WHERE parked.seq = ANY (ARRAY(SELECT seq FROM old)) AND NOT :'dry'::boolean
)
SELECT count(*) AS rows FROM old;
