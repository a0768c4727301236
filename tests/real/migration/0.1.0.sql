-- The schema pgoutbox as version 0.1.0 made it.
-- What pgoutbox keeps of its own. Run it as often as you like: it adds what is missing.
CREATE SCHEMA IF NOT EXISTS pgoutbox;

-- How far each slot's events are settled, written with the marks. After a crash it keeps
-- what was delivered from being sent again; a start LSN it never becomes. One row, rewritten
-- some twenty times a second: the free page keeps all of that in one page (HOT).
CREATE TABLE IF NOT EXISTS pgoutbox.progress (
    slot              name        PRIMARY KEY,
    system_identifier text        NOT NULL, -- these two: of which server's WAL the LSNs are
    timeline          integer     NOT NULL,
    end_lsn           pg_lsn      NOT NULL, -- end of the last commit whose events are all settled
    commit_lsn        pg_lsn,               -- the transaction after it, if part of it is settled,
    settled           bigint      NOT NULL DEFAULT 0,       -- and how many of its events are
    updated_at        timestamptz NOT NULL DEFAULT now(),
    fault             jsonb,                -- what the relay is stuck on; null when all is well
    fault_at          timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 1000);

-- The marks where audit.mode is side_table: a quarter of the WAL of a mark in the row itself.
-- Made in any case: empty it costs nothing, and the mode can then change without DDL.
-- regclass, so that a mark follows its table through a rename.
CREATE TABLE IF NOT EXISTS pgoutbox.relayed (
    outbox     regclass    NOT NULL,
    id         text        NOT NULL,
    relayed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (outbox, id)
);

-- Events that could not be delivered, and those of their aggregates that wait behind them.
-- Whole rows, as the stream brought them: each try reads them anew by the mapping of its
-- day, so that a mended setting takes effect, whatever became of the row in the outbox.
CREATE TABLE IF NOT EXISTS pgoutbox.parked (
    seq             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- rises in commit order
    slot            name        NOT NULL,
    outbox          regclass    NOT NULL,
    event_id        text,                 -- null where it cannot be read
    aggregate_type  text,
    aggregate_id    text,
    commit_lsn      pg_lsn      NOT NULL, -- where the commit record starts,
    index           bigint      NOT NULL, -- and the event's number in that transaction
    commit_time     timestamptz NOT NULL,
    -- parked: waits for next_attempt_at. queued: waits behind an older one of its aggregate.
    -- failed: waits for you. dead_lettered, discarded: done with; kept as a record.
    state           text        NOT NULL
                    CHECK (state IN ('parked', 'queued', 'failed', 'dead_lettered', 'discarded')),
    is_holding      boolean     NOT NULL, -- later events of its aggregate wait behind it
    reason          text,                 -- returned, nacked, closed, unreadable, ...
    last_error      text,                 -- the same in full
    mend            text,                 -- and what to do about it
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    parked_at       timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    changed_by      text,                 -- who retried or discarded it last
    note            text,                 -- and what they said
    columns         jsonb       NOT NULL, -- [{"name": ..., "type_oid": ...}, ...]
    cells           bytea[]     NOT NULL  -- their texts
);
-- An event is parked once, however often the stream brings it.
CREATE UNIQUE INDEX IF NOT EXISTS parked_event ON pgoutbox.parked (outbox, event_id);
-- The first of each aggregate, and how many wait for anything.
CREATE INDEX IF NOT EXISTS parked_due ON pgoutbox.parked (slot, next_attempt_at)
 WHERE state IN ('parked', 'failed');
CREATE INDEX IF NOT EXISTS parked_behind
    ON pgoutbox.parked (outbox, aggregate_type, aggregate_id, seq)
 WHERE state IN ('parked', 'queued', 'failed');

-- A catch-up under way: rows that the slot does not hold, because it did not exist yet or was
-- lost. One row per slot, from before the slot is made until the last of them is delivered.
CREATE TABLE IF NOT EXISTS pgoutbox.catch_up (
    slot           name        PRIMARY KEY,
    why            text        NOT NULL,
    state          text        NOT NULL CHECK (state IN ('begun', 'listed')),
    consistent_lsn pg_lsn,               -- where the stream of the new slot begins
    total          bigint,               -- rows listed
    begun_at       timestamptz NOT NULL DEFAULT now()
);
-- Which rows, in the order in which they are published.
CREATE TABLE IF NOT EXISTS pgoutbox.catch_up_rows (
    slot        name        NOT NULL,
    n           bigint      NOT NULL,    -- from 0
    outbox      regclass    NOT NULL,
    id          text        NOT NULL,
    PRIMARY KEY (slot, n)
);
