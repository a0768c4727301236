-- The default outbox table. It belongs to the application: pgoutbox only marks its rows.
--   psql -v schema=public -v table=outbox_messages -v new_id=gen_random_uuid -f init/outbox.sql
-- new_id: from Postgres 18 on say uuidv7. Ids that rise with time land on the index's last
-- page; random ones each dirty a page of their own.
CREATE TABLE IF NOT EXISTS :"schema".:"table" (
    id             uuid PRIMARY KEY DEFAULT :"new_id"(), -- becomes message_id
    aggregate_type text,                                 -- with aggregate_id: the key of the order
    aggregate_id   text,
    event_type     text,
    topic          text,                                 -- routing key, where set
    payload        jsonb       NOT NULL,                 -- the body
    headers        jsonb       NOT NULL DEFAULT '{}',
    occurred_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt        integer     NOT NULL DEFAULT 0,
    relayed_at     timestamptz,                          -- the mark: the broker confirmed it
    failed_at      timestamptz,
    last_error     text
) WITH (
    -- A row is written twice: inserted, then marked. With half of each page left free the
    -- second version stays on its page (a HOT update): no new index entries, 425 instead of
    -- 564 bytes of WAL per mark (300 byte payloads), twice the marks per second. It costs
    -- nothing: without it the heap doubles as well, by the second versions.
    fillfactor = 50,
    -- The defaults wait for 20 % of the table, which in an outbox that is never emptied is
    -- soon days of dead versions. Vacuum a hundredth at a time, inserts alone included.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.02
);
-- No index on relayed_at, not even a partial one (WHERE relayed_at IS NULL): it would turn
-- every mark into a non-HOT update, with an entry in every index (641 bytes of WAL, a quarter
-- of the speed), and nothing looks rows up by it: the WAL is the queue.
-- To keep the table small, set prune.keep; or partition it by occurred_at, as
-- init/outbox_partitioned.sql does, and old partitions are dropped. Never partition by relayed_at: the
-- mark would move the row, and a moved row is published again.
