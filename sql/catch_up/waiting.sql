-- The rows of one table that wait, and what orders them. Those that are parked do not wait: the
-- parking has them. Nor do those that the publication's row filter keeps back.
--   psql -v slot=pgoutbox -v schema=public -v table=outbox_messages -v relation=16389 -v mode=update -v id=id
--        -v marked='outbox.relayed_at IS NOT NULL' -v occurred_at=occurred_at -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v among=true -v filter=true -f catch_up/waiting.sql
-- mode: audit.mode of the table; marked: whether a row is marked in itself. time: the type of
-- occurred_at, or none; then that may be any column. filter: as table/row_filter.sql says it. among: rows that
-- are looked at; of others nothing is worked out.
SELECT :'relation'::oid::regclass AS outbox,
       outbox.:"id"::text AS id,
       outbox.tableoid AS leaf,
       outbox.ctid AS place,
       outbox.xmin::text::bigint AS xid,
       CASE WHEN outbox.:"id"::text COLLATE "C" ~ '^-?\d{1,38}$' THEN outbox.:"id"::text::numeric END AS number,
       -- Of the transaction that wrote this version of the row. Where the row was updated since,
       -- that is the update's: such rows come later than they would have. Null for rows older
       -- than what the server remembers.
       CASE WHEN current_setting('track_commit_timestamp')::boolean
            THEN pg_xact_commit_timestamp(outbox.xmin) END AS committed_at,
       -- How long ago that transaction began, counted in transactions. Their ids go round.
       (pg_snapshot_xmax(pg_current_snapshot())::text::bigint - outbox.xmin::text::bigint + 8589934592) % 4294967296 AS age,
       -- Place within that transaction, its savepoints included.
       outbox.cmin::text::bigint AS command,
       CASE :'time'
            WHEN 'timestamptz' THEN outbox.:"occurred_at"::text::timestamptz
            WHEN 'timestamp' THEN outbox.:"occurred_at"::text::timestamp AT TIME ZONE 'UTC'
            -- Its size gives the unit: seconds, milliseconds, microseconds, nanoseconds.
            WHEN 'bigint' THEN to_timestamp(outbox.:"occurred_at"::text::float8
                                            / CASE WHEN outbox.:"occurred_at"::text::numeric < 0 THEN NULL
                                                   WHEN outbox.:"occurred_at"::text::numeric < 1e11 THEN 1
                                                   WHEN outbox.:"occurred_at"::text::numeric < 1e14 THEN 1e3
                                                   WHEN outbox.:"occurred_at"::text::numeric < 1e17 THEN 1e6 ELSE 1e9 END)
       END AS occurred_at
  FROM :"schema".:"table" AS outbox
 WHERE (:among)
   AND CASE WHEN (:among) THEN (:filter) ELSE false END
   AND (:'mode' <> 'update' OR NOT (:marked))
   AND (:'mode' <> 'side_table'
        OR NOT EXISTS (SELECT FROM pgoutbox.relayed AS mark
                        WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                          AND pgoutbox.is_mark_of(mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END)))
   AND NOT EXISTS (SELECT FROM pgoutbox.parked AS parked
                    WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                      AND parked.outbox = :'relation'::oid::regclass
                      AND coalesce(parked.event_id, '') = coalesce(outbox.:"id"::text, '')
                      AND pgoutbox.is_record_of(parked, outbox.xmin, CASE WHEN :'time' <> 'none' THEN outbox.:"occurred_at"::text END,
                                                ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                                                ARRAY[outbox.:"payload"::text, outbox.:"topic"::text, outbox.:"of_type"::text, outbox.:"of_id"::text]));
