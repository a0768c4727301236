-- Records of events that are done with, dead-lettered or discarded long ago, together with their
-- rows: a row that outlived its record would look like one never relayed.
--   $1 bigint[]: which records, $2 float8: age in seconds
WITH old AS MATERIALIZED (
    SELECT parked.seq, parked.event_id
      FROM pgoutbox.parked
     WHERE parked.seq = ANY ($1::bigint[])
       AND parked.outbox = :'relation'::oid::regclass
       AND parked.state IN ('dead_lettered', 'discarded')
       AND parked.changed_at < now() - $2::float8 * interval '1 second'
       FOR UPDATE OF parked SKIP LOCKED
), mark_gone AS (
    DELETE FROM pgoutbox.relayed
     WHERE relayed.outbox = :'relation'::oid::regclass
       AND relayed.id = ANY (ARRAY(SELECT event_id FROM old))
), row_gone AS (
    DELETE FROM :"schema".:"table" AS outbox
     WHERE outbox.:"id" = ANY (ARRAY(SELECT event_id FROM old WHERE event_id IS NOT NULL):::"id_schema".:"id_type"[])
), gone AS (
    DELETE FROM pgoutbox.parked
     WHERE parked.seq = ANY (ARRAY(SELECT seq FROM old))
    RETURNING parked.seq
)
SELECT count(*) AS rows FROM gone;
