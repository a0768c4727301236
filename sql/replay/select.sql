-- The rows to replay, by id and place, in order. An empty variable asks for nothing; a column that the table
-- lacks is named by its id, and then not asked for. among: rows that are looked at. The filter is worked out
-- last, for what was asked for alone: it may raise.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v occurred_at=occurred_at \
--        -v slot=pgoutbox -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v time_schema=pg_catalog -v time_type=timestamptz -v marked='outbox.relayed_at IS NOT NULL' -v marked_at=outbox.relayed_at -v mode=update \
--        -v aggregate_type=aggregate_type -v aggregate_id=aggregate_id -v wanted_types='[]' -v wanted_ids='[]' \
--        -v ids='[]' -v since= -v until= -v committed_since= -v committed_until= -v relayed_since= -v relayed_until= \
--        -v only=all -v filter=true -v among=true -v xmin= -f replay/select.sql
SELECT outbox.:"id"::text AS id, outbox.tableoid::text AS leaf, outbox.ctid::text AS place,
       -- Others of these rows have its id too, or it has none.
       (outbox.:"id" IS NULL OR count(*) OVER (PARTITION BY outbox.:"id"::text) > 1) AS is_shared,
       -- What people are shown before anything is sent.
       concat_ws('/', outbox.:"aggregate_type"::text, outbox.:"aggregate_id"::text) AS aggregate
  FROM :"schema".:"table" AS outbox
 WHERE (:among)
   AND (:'since' = '' OR outbox.:"occurred_at":::"time_schema".:"time_type" >= nullif(:'since', '')::text:::"time_schema".:"time_type")
   AND (:'until' = '' OR outbox.:"occurred_at":::"time_schema".:"time_type" < nullif(:'until', '')::text:::"time_schema".:"time_type")
   -- Without track_commit_timestamp this is an error: only asked where it is on.
   AND (:'committed_since' = '' OR pg_xact_commit_timestamp(outbox.xmin) >= nullif(:'committed_since', '')::timestamptz)
   AND (:'committed_until' = '' OR pg_xact_commit_timestamp(outbox.xmin) < nullif(:'committed_until', '')::timestamptz)
   -- Transaction ids go round: before is within the half circle behind.
   AND (:'xmin' = ''
        OR (outbox.xmin::text::bigint - coalesce(nullif(:'xmin', ''), '0')::bigint + 8589934592) % 4294967296 >= 2147483648)
   AND CASE WHEN (:among)
             AND (:'ids' = '[]' OR outbox.:"id"::text IN (SELECT jsonb_array_elements_text(:'ids'::jsonb)))
             AND (:'wanted_types' = '[]' OR outbox.:"aggregate_type"::text IN (SELECT jsonb_array_elements_text(:'wanted_types'::jsonb)))
             AND (:'wanted_ids' = '[]' OR outbox.:"aggregate_id"::text IN (SELECT jsonb_array_elements_text(:'wanted_ids'::jsonb)))
             -- By way of text: a column that the table lacks is named by its id.
             AND (:'relayed_since' = '' AND :'relayed_until' = ''
                  OR CASE :'mode'
                         WHEN 'update' THEN :marked_at::text::timestamptz >= coalesce(nullif(:'relayed_since', ''), '-infinity')::timestamptz
                                        AND :marked_at::text::timestamptz < coalesce(nullif(:'relayed_until', ''), 'infinity')::timestamptz
                         WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                              WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                                AND pgoutbox.is_mark_of(mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END)
                                AND mark.relayed_at >= coalesce(nullif(:'relayed_since', ''), '-infinity')::timestamptz
                                AND mark.relayed_at < coalesce(nullif(:'relayed_until', ''), 'infinity')::timestamptz)
                         ELSE false END)
             AND (:'only' = 'all'
                  OR (:'only' = 'relayed') = CASE :'mode'
                         WHEN 'update' THEN (:marked)
                         WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                              WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                                AND pgoutbox.is_mark_of(mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END))
                         ELSE false END)
             -- Rows without a mark: not those that are parked, nor those that the relay has not come to.
             AND (:'only' <> 'unrelayed'
                  OR NOT EXISTS (SELECT FROM pgoutbox.parked AS parked
                                  WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                                    AND parked.outbox = :'relation'::oid::regclass
                                    AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                                    AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                                              ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                                              ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text])))
            -- Not those that the publication's row filter keeps back: table/row_filter.sql.
            THEN (:filter) ELSE false END
 ORDER BY CASE WHEN :'committed_since' || :'committed_until' <> '' THEN pg_xact_commit_timestamp(outbox.xmin) END,
          -- Within one transaction.
          CASE WHEN :'committed_since' || :'committed_until' <> '' THEN outbox.cmin::text::bigint END,
          outbox.:"occurred_at", outbox.:"id";
