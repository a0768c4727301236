-- Of the rows that records of the parking were made of, those that are still there. A row that
-- only has the id of such a record is none.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v id_schema=pg_catalog \
--        -v id_type=uuid -v occurred_at=occurred_at -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v seqs='{7,8}' -f replay/marks.sql
WITH replayed AS MATERIALIZED (
    SELECT parked.event_id, parked AS record
      FROM pgoutbox.parked AS parked
     WHERE parked.seq = ANY (:'seqs'::bigint[]) AND parked.outbox = :'relation'::oid::regclass
       AND parked.event_id IS NOT NULL
)
SELECT outbox.:"id"::text AS id, outbox.xmin::text AS xmin,
       CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END AS occurred_at
  FROM replayed
  JOIN :"schema".:"table" AS outbox ON outbox.:"id":::"id_schema".:"id_type" = replayed.event_id:::"id_schema".:"id_type"
 WHERE pgoutbox.is_record_of(replayed.record, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                             ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                             ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text]);
