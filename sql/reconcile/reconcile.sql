-- Rows of a range of pages that the relay has had its chance at, and that are neither marked nor
-- parked. The range is read by a TID range scan: no index, and no more than asked for.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v occurred_at=occurred_at \
--        -v slot=pgoutbox -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v marked='outbox.relayed_at IS NOT NULL' -v mode=update -v filter=true -v xmin=735 \
--        -v from='(0,0)' -v to='(12800,0)' -f reconcile/reconcile.sql
SELECT count(*) AS rows,
       min(missing.occurred_at COLLATE "C") AS oldest,
       -- Time, id, table or partition, place there.
       coalesce((jsonb_agg(jsonb_build_array(missing.occurred_at, missing.id, missing.leaf, missing.place)
                           ORDER BY missing.occurred_at COLLATE "C", missing.id)
                 FILTER (WHERE missing.number <= 1000)), '[]')::text AS first
  FROM (SELECT found.*, row_number() OVER (ORDER BY found.occurred_at COLLATE "C", found.id) AS number
          FROM (SELECT outbox.:"id"::text AS id, outbox.:"occurred_at"::text AS occurred_at,
                       format('%I.%I', :'schema'::text, :'table'::text)::regclass::oid::text AS leaf, outbox.ctid::text AS place
                  FROM ONLY :"schema".:"table" AS outbox
                 WHERE outbox.ctid >= :'from'::tid AND outbox.ctid < :'to'::tid
                   -- Not those that the publication's row filter keeps back: table/row_filter.sql.
                   AND (:filter)
                   AND NOT CASE :'mode'
                           WHEN 'update' THEN (:marked)
                           WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                                WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                                  AND pgoutbox.is_mark_of(mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END))
                           ELSE false END
                   -- Transaction ids go round: before is within the half circle behind.
                   AND (outbox.xmin::text::bigint - :'xmin'::bigint + 8589934592) % 4294967296 >= 2147483648
                   AND NOT EXISTS (SELECT FROM pgoutbox.parked AS parked
                                    WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                                      AND parked.outbox = :'relation'::oid::regclass
                                      AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                                      AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                                                ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                                                ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text]))
               ) AS found) AS missing;
