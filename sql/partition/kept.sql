-- Whether a partition holds a row that must stay where audit.mode is update: not relayed, relayed
-- lately, parked, or kept back by the publication's row filter (table/row_filter.sql): it is another relay's.
--   psql -v schema=public -v partition=outbox_messages_d20260101 -v relation=16389 -v id=id \
--        -v marked='outbox.relayed_at IS NOT NULL' -v marked_at=outbox.relayed_at -v seconds=2592000 -v filter=true -f partition/kept.sql
SELECT EXISTS (
    SELECT FROM :"schema".:"partition" AS outbox
     WHERE NOT (:marked) OR NOT coalesce((:filter), false)
        OR :marked_at >= now() - :'seconds'::float8 * interval '1 second'
        OR EXISTS (SELECT FROM pgoutbox.parked
                    WHERE parked.outbox = :'relation'::oid::regclass
                      AND parked.event_id = outbox.:"id"::text
                      AND parked.state IN ('parked', 'queued', 'failed'))
) AS is_kept;
