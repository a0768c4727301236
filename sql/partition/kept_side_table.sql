-- Whether a partition holds a row that must stay where audit.mode is side_table: not relayed,
-- relayed lately, parked, or kept back by the publication's row filter (table/row_filter.sql).
--   psql -v schema=public -v partition=outbox_messages_d20260101 -v relation=16389 -v id=id \
--        -v seconds=2592000 -v filter=true -f partition/kept_side_table.sql
SELECT EXISTS (
    SELECT FROM :"schema".:"partition" AS outbox
     WHERE NOT EXISTS (SELECT FROM pgoutbox.relayed
                        WHERE relayed.outbox = :'relation'::oid::regclass
                          AND relayed.id = outbox.:"id"::text
                          AND pgoutbox.is_mark_of(relayed, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END)
                          AND relayed.relayed_at < now() - :'seconds'::float8 * interval '1 second')
        OR NOT coalesce((:filter), false)
        OR EXISTS (SELECT FROM pgoutbox.parked
                    WHERE parked.outbox = :'relation'::oid::regclass
                      AND parked.event_id = outbox.:"id"::text
                      AND parked.state IN ('parked', 'queued', 'failed'))
) AS is_kept;
