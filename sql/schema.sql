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
