-- Records of events that are done with, dead-lettered or discarded long ago, together with their
-- rows: a row that outlived its record would look like one never relayed. A row that only has the
-- id of such a record stays.
--   $1 bigint[]: which records, $2 float8: age in seconds
WITH old AS MATERIALIZED (
    SELECT parked.seq, parked.event_id, parked AS record
      FROM pgoutbox.parked
     WHERE parked.seq = ANY ($1::bigint[])
       AND parked.slot = :'slot' AND parked.outbox = :'relation'::oid::regclass
       AND parked.state IN ('dead_lettered', 'discarded', 'delivered')
       AND parked.changed_at < now() - $2::float8 * interval '1 second'
       FOR UPDATE OF parked SKIP LOCKED
), row_gone AS (
    DELETE FROM :"schema".:"table" AS outbox
     USING old
     WHERE outbox.:"id":::"id_schema".:"id_type" = old.event_id:::"id_schema".:"id_type"
       AND pgoutbox.is_record_of(old.record, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                 ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                 ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text])
    RETURNING outbox.:"id"::text AS id, outbox.xmin AS written_by,
              CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END AS occurred_at
), row_without_id_gone AS (
    DELETE FROM :"schema".:"table" AS outbox
     USING old
     WHERE old.event_id IS NULL AND outbox.:"id" IS NULL
       AND pgoutbox.is_record_of(old.record, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                 ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                 ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text])
), mark_gone AS (
    DELETE FROM pgoutbox.relayed
     USING row_gone
     WHERE relayed.outbox = :'relation'::oid::regclass AND relayed.id = row_gone.id
       AND pgoutbox.is_mark_of(relayed, row_gone.written_by, row_gone.occurred_at)
), gone AS (
    DELETE FROM pgoutbox.parked
     WHERE parked.seq = ANY (ARRAY(SELECT seq FROM old))
    RETURNING parked.seq
)
SELECT count(*) AS rows FROM gone;
