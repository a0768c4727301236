-- Rows to replay, in the order of their ids here. Their columns' texts are taken as the server
-- writes them out, not cast to text: so the stream does it, and for char(n) and boolean the two
-- differ.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v id_schema=pg_catalog \
--        -v slot=pgoutbox -v time=timestamptz -v occurred_at=occurred_at -v id_type=uuid -v relayed_at=relayed_at -v mode=update -v only=all -v ids='["..."]' -f replay_rows.sql
SELECT outbox.*
  FROM jsonb_array_elements_text(:'ids'::jsonb) WITH ORDINALITY AS wanted (id, number)
  JOIN :"schema".:"table" AS outbox ON outbox.:"id" = wanted.id:::"id_schema".:"id_type"
 -- Looked at anew: it may have been marked or parked since it was found.
 WHERE :'only' <> 'unrelayed'
    OR NOT CASE :'mode'
           WHEN 'update' THEN outbox.:"relayed_at" IS NOT NULL
           WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = wanted.id)
           ELSE false END
       AND NOT EXISTS (SELECT FROM pgoutbox.parked AS parked
                        WHERE parked.slot = :'slot' AND parked.outbox = :'relation'::oid::regclass
                          AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                          AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END))
 ORDER BY wanted.number;
