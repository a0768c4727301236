-- Rows of an outbox table and how each of them stands: the latest first.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v occurred_at=occurred_at \
--        -v marked='outbox.relayed_at IS NOT NULL' -v marked_at=outbox.relayed_at -v mode=update -v slot=pgoutbox \
--        -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id \
--        -v filter=true -v among='outbox.id = 7' -v xmin=735 -v commit_times=off -v limit=101 -f event/rows.sql
SELECT outbox.:"id"::text AS id,
       CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END AS occurred_at,
       CASE WHEN :'of_type' <> :'id' THEN outbox.:"of_type"::text END AS aggregate_type,
       CASE WHEN :'of_id' <> :'id' THEN outbox.:"of_id"::text END AS aggregate_id,
       CASE :'mode' WHEN 'update' THEN (:marked) WHEN 'side_table' THEN mark.is_there ELSE false END AS is_marked,
       to_char(CASE :'mode' WHEN 'update' THEN :marked_at::text::timestamptz WHEN 'side_table' THEN mark.relayed_at END
               AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS marked_at,
       -- The server knows the last transaction that wrote a row: of one that is marked in itself, that of the mark.
       CASE WHEN :'commit_times' = 'on' AND NOT (:'mode' = 'update' AND (:marked))
            THEN to_char(pg_xact_commit_timestamp(outbox.xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') END AS committed_at,
       (:filter) IS TRUE AS is_published,
       -- Empty: the slot has not come so far. Transaction ids go round.
       (:'xmin' <> ''
        AND (outbox.xmin::text::bigint - coalesce(nullif(:'xmin', ''), '0')::bigint + 8589934592) % 4294967296 >= 2147483648) AS is_passed,
       ARRAY(SELECT parked.seq FROM pgoutbox.parked AS parked
              WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                AND parked.outbox = :'relation'::oid::regclass
                AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                          ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                          ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text])
              ORDER BY parked.seq) AS seqs
  FROM :"schema".:"table" AS outbox
  LEFT JOIN LATERAL (
       SELECT count(*) > 0 AS is_there, min(relayed.relayed_at) AS relayed_at
         FROM pgoutbox.relayed AS relayed
        WHERE :'mode' = 'side_table' AND relayed.outbox = :'relation'::oid::regclass AND relayed.id = outbox.:"id"::text
          AND pgoutbox.is_mark_of(relayed, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END)
       ) AS mark ON true
 WHERE (:among)
 ORDER BY outbox.:"occurred_at" DESC, outbox.:"id" DESC
 LIMIT :'limit'::bigint;
