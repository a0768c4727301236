-- The ledger of one table: every row is delivered, parked, waiting or missing. sample: which of its pages are
-- read, TABLESAMPLE SYSTEM (1) for one; all, where it is empty. among: rows that are looked at.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v occurred_at=occurred_at \
--        -v time_schema=pg_catalog -v time_type=timestamptz -v marked='outbox.relayed_at IS NOT NULL' -v mode=update \
--        -v slot=pgoutbox -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v filter=true -v among=true -v xmin=735 -v before= -v sample= -f ledger/ledger.sql
SELECT count(*) AS committed,
       count(*) FILTER (WHERE is_marked) AS delivered,
       count(*) FILTER (WHERE NOT is_marked AND is_parked) AS parked,
       count(*) FILTER (WHERE NOT is_marked AND NOT is_parked AND NOT is_due) AS waiting,
       count(*) FILTER (WHERE NOT is_marked AND NOT is_parked AND is_due) AS missing,
       min(occurred_at COLLATE "C") AS oldest_committed,
       min(occurred_at COLLATE "C") FILTER (WHERE is_marked) AS oldest_delivered,
       min(occurred_at COLLATE "C") FILTER (WHERE NOT is_marked AND NOT is_parked AND NOT is_due) AS oldest_waiting,
       min(occurred_at COLLATE "C") FILTER (WHERE NOT is_marked AND NOT is_parked AND is_due) AS oldest_missing
  FROM (SELECT outbox.:"occurred_at"::text AS occurred_at,
               CASE :'mode'
                   WHEN 'update' THEN (:marked)
                   WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                        WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                          AND pgoutbox.is_mark_of(mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END))
                   ELSE false END AS is_marked,
               EXISTS (SELECT FROM pgoutbox.parked AS parked
                        WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                          AND parked.outbox = :'relation'::oid::regclass
                          AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                          AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                                    ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                                    ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text])) AS is_parked,
               -- Empty: the slot has not come so far, and nothing can be missing.
               (:'xmin' <> ''
                AND (outbox.xmin::text::bigint - coalesce(nullif(:'xmin', ''), '0')::bigint + 8589934592) % 4294967296 >= 2147483648
                AND (:'before' = '' OR outbox.:"occurred_at":::"time_schema".:"time_type" < nullif(:'before', '')::text:::"time_schema".:"time_type")
               ) AS is_due
          FROM :"schema".:"table" AS outbox :sample
         -- Not those that the publication's row filter keeps back: table/row_filter.sql.
         WHERE (:among)
           AND CASE WHEN (:among) THEN (:filter) ELSE false END) AS one;
