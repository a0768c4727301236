-- The default outbox table in partitions by time, for outboxes so large that deleting row by row
-- costs too much: a whole partition is dropped once each of its rows was relayed long ago.
--   psql -v schema=public -v table=outbox_messages -v default=outbox_messages_default \
--        -v new_id=gen_random_uuid -f init/outbox_partitioned.sql
-- By occurred_at, which nobody changes. Never by relayed_at: the mark would move the row, and a
-- moved row is published again.
CREATE TABLE IF NOT EXISTS :"schema".:"table" (
    id             uuid        NOT NULL DEFAULT :"new_id"(), -- becomes message_id
    aggregate_type text,                                     -- with aggregate_id: the key of the order
    aggregate_id   text,
    event_type     text,
    topic          text,                                     -- routing key, where set
    payload        jsonb       NOT NULL,                     -- the body
    headers        jsonb       NOT NULL DEFAULT '{}',
    occurred_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt        integer     NOT NULL DEFAULT 0,
    relayed_at     timestamptz,                              -- the mark: the broker confirmed it
    failed_at      timestamptz,
    last_error     text,
    -- A key must hold the column of the partitions. So the same id at two times is no error: let
    -- nothing rest on the table to refuse an id that was used before. id comes first, since
    -- marks find rows by id, in the partitions of their events' time.
    PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);
-- Takes what no other partition does, so that no INSERT ever fails for want of one: with the
-- relay down for weeks, or an event of last year. Its price: Postgres detaches no partition
-- CONCURRENTLY while there is a default one, so that a drop needs the table for itself for a
-- moment (it waits for that 100 ms at most, and tries again later).
CREATE TABLE IF NOT EXISTS :"schema".:"default" PARTITION OF :"schema".:"table" DEFAULT
    -- As in the table that has no partitions: half of each page for the marks.
    WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01,
          autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.02);
