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

-- A digest of the publication and its tables, when they were last seen to be as they should; null:
-- not known. 0: rows passed by the slot, and are still to be caught up with.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS coverage bigint;
-- Which tables are read as outboxes, by oid: one that was renamed, and another made under its name, may
-- hold rows that still wait.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS tables jsonb;
-- The session that owns the slot. What an earlier one still has under way (its host is cut off, or its
-- batch waits for a lock) is refused once this one has read the row. Null: nobody is refused.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS session uuid;
-- Whether settled counts messages of pg_logical_emit_message too. Null: no.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS messages boolean;
-- The first change of that transaction that is not before the place: where its record is in the WAL, and its number
-- among the rows of the record. How many are counted before it (settled) may differ from session to session. Null: not known.
ALTER TABLE pgoutbox.progress
    ADD COLUMN IF NOT EXISTS change_lsn    pg_lsn,
    ADD COLUMN IF NOT EXISTS change_number integer;
-- By which a RabbitMQ stream knows events again: the publishing id of the last event before the place, and a
-- number in the name that they are published under. Null: the next session takes a new one, since nobody
-- may know which ids were used. And when the server was started under which that name is known to be right, and the
-- highest id that a stream has confirmed under it: one that has less has lost it.
ALTER TABLE pgoutbox.progress
    ADD COLUMN IF NOT EXISTS publishing_id    bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS publishing_epoch bigint,
    ADD COLUMN IF NOT EXISTS publishing_start timestamptz,
    ADD COLUMN IF NOT EXISTS confirmed_id     bigint NOT NULL DEFAULT 0;
-- Which stream the events of each source go to, while some may be in flight: another one knows nothing of their
-- ids, and may have later ones. Null: none is in flight, or goes to a stream.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS routes jsonb;
-- By what the changes before the place were told to be events: publication, and of each table (by oid) and prefix of
-- messages its rule. Of others it is not known whether they were delivered or passed over. Null: of all.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS readings jsonb;
-- How far each share of before was settled, in the order of the shares, where another number of relays had the
-- outbox until this slot began. Null: nobody had.
ALTER TABLE pgoutbox.progress ADD COLUMN IF NOT EXISTS former jsonb;
-- How it is refused: with the whole transaction.
CREATE OR REPLACE FUNCTION pgoutbox.taken_over(of_slot name) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'another relay has taken over slot "%", or its row in pgoutbox.progress was removed', of_slot
        USING ERRCODE = 'OB001';
END
$$;
GRANT EXECUTE ON FUNCTION pgoutbox.taken_over(name) TO PUBLIC;

-- The marks where audit.mode is side_table: some 330 bytes of WAL, whatever the size of the row.
-- Made in any case: empty it costs nothing, and the mode can then change without DDL.
-- regclass, so that a mark follows its table through a rename.
CREATE TABLE IF NOT EXISTS pgoutbox.relayed (
    outbox     regclass    NOT NULL,
    id         text        NOT NULL,
    relayed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (outbox, id)
);
-- What tells the row of a mark from another row with its id, which may be used again or never have
-- been the only one: when the event happened by the row's own account, as a hash; where it does not
-- say, the transaction that wrote it, from event on and before xid_end (its savepoints have ids in
-- between). 0: a mark of an older version, which knows only the id.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                    WHERE attrelid = 'pgoutbox.relayed'::regclass AND attname = 'event' AND NOT attisdropped) THEN
        ALTER TABLE pgoutbox.relayed
            ADD COLUMN event   bigint NOT NULL DEFAULT 0,
            ADD COLUMN xid_end bigint,
            DROP CONSTRAINT IF EXISTS relayed_pkey,
            ADD PRIMARY KEY (outbox, id, event);
    END IF;
END
$$;
-- Whether a mark is that of a row of its table with the same id: all who ask which rows are marked ask
-- here. row_occurred_at is null where the table has no such column, '' where the row leaves it empty.
-- A row that has no time and that somebody has updated since is known by nothing. It counts as not
-- marked: better one row too many that is told of than one too few.
CREATE OR REPLACE FUNCTION pgoutbox.is_mark_of(mark pgoutbox.relayed, row_xmin xid, row_occurred_at text)
    RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN mark.event = 0 THEN true
        WHEN mark.xid_end IS NULL
            THEN row_occurred_at IS NULL OR hashtextextended(row_occurred_at COLLATE "C", 0) = mark.event
        -- Transaction ids go round.
        ELSE (row_xmin::text::bigint - mark.event + 4294967296) % 4294967296
             < (mark.xid_end - mark.event + 4294967296) % 4294967296
    END;
GRANT EXECUTE ON FUNCTION pgoutbox.is_mark_of TO PUBLIC;

-- Events that could not be delivered, and those of their aggregates that wait behind them.
-- Whole rows, as the stream brought them: each try reads them again by the mapping of its
-- day, so that a corrected setting takes effect, whatever became of the row in the outbox.
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
    -- As it was left: parked: tried, and waits for next_attempt_at. queued: never tried, since it
    -- waited behind an older one of its aggregate. failed: waits for you. dead_lettered, discarded:
    -- done with; kept as a record. delivered: its mark is still to be written. Whose turn it is follows from the others of its aggregate:
    -- see pgoutbox.parked_places.
    state           text        NOT NULL
                    CHECK (state IN ('parked', 'queued', 'failed', 'dead_lettered', 'discarded', 'delivered')),
    is_holding      boolean     NOT NULL, -- later events of its aggregate wait behind it
    reason          text,                 -- returned, nacked, closed, unreadable, ...
    last_error      text,                 -- the same in full
    hint            text,                 -- and what to do about it
    mend            text,                 -- the same, as version 0.1 called it
    attempts        integer     NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    parked_at       timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    changed_by      text,                 -- who retried or discarded it last
    note            text,                 -- and what they said
    columns         jsonb       NOT NULL, -- [{"name": ..., "type_oid": ...}, ...]
    cells           bytea[]     NOT NULL  -- their texts
);
-- What tells the event from any other, and its row from any other row. Added to tables of older
-- versions, whose records know nothing of these.
ALTER TABLE pgoutbox.parked
    ADD COLUMN IF NOT EXISTS digest      bytea,   -- of the cells
    -- The row was written by a transaction from xid on (its own) and before xid_end (the first that
    -- had not begun when the event was parked): its savepoints have transaction ids in between.
    ADD COLUMN IF NOT EXISTS xid         bigint,
    ADD COLUMN IF NOT EXISTS xid_end     bigint,
    ADD COLUMN IF NOT EXISTS shown_xid   bigint,  -- the relay wrote attempt, last_error or failed_at of the row
    ADD COLUMN IF NOT EXISTS occurred_at text,    -- when it happened, by the row's own account
    ADD COLUMN IF NOT EXISTS filenode    oid;     -- the file of the table: TRUNCATE makes another
UPDATE pgoutbox.parked
   SET digest = (SELECT sha256(string_agg(coalesce(sha256(cell), '\x00'), ''::bytea ORDER BY number))
                   FROM unnest(cells) WITH ORDINALITY AS one (cell, number))
 WHERE digest IS NULL;
-- When the relay took it to publish it, until the outcome is written: in flight. Who discards it
-- meanwhile is told so. Its own line, for tables that an earlier version made.
ALTER TABLE pgoutbox.parked ADD COLUMN IF NOT EXISTS claimed_at timestamptz;
-- An event that has no row, since it was emitted: outbox is 0, and this is the prefix of its message.
ALTER TABLE pgoutbox.parked ADD COLUMN IF NOT EXISTS prefix text;
-- Version 0.1 called it "mend". A relay of it that still runs goes on writing that; both are read.
ALTER TABLE pgoutbox.parked ADD COLUMN IF NOT EXISTS hint text;
-- The last twenty different ends of its tries, the oldest first: reason, error, how often in a row, the first
-- time and the last.
ALTER TABLE pgoutbox.parked ADD COLUMN IF NOT EXISTS tries jsonb NOT NULL DEFAULT '[]';
-- An event that was delivered, and whose mark could not be written in the same transaction, stays
-- until it is: nobody else would know of it. Earlier versions had no such state.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint
                WHERE conrelid = 'pgoutbox.parked'::regclass AND conname = 'parked_state_check'
                  AND pg_get_constraintdef(oid) NOT LIKE '%delivered%') THEN
        ALTER TABLE pgoutbox.parked
            DROP CONSTRAINT parked_state_check,
            ADD CONSTRAINT parked_state_check
                CHECK (state IN ('parked', 'queued', 'failed', 'dead_lettered', 'discarded', 'delivered'));
    END IF;
END
$$;
-- No index here holds a text of the event's own: a B-tree takes no key of more than some 2,700
-- bytes, and an event with a longer id could not be parked at all. Those of before did.
DROP INDEX IF EXISTS pgoutbox.parked_event;
DROP INDEX IF EXISTS pgoutbox.parked_behind;
-- An event is parked once, however often the stream brings it. It is known by its place: an id may
-- come again, of another row or after TRUNCATE ... RESTART IDENTITY. By its content as well, since
-- a place may come again too: on a server that was restored, or promoted without the last commits.
-- Before, one whose id cannot be read came once more each time.
DO $$
BEGIN
    IF to_regclass('pgoutbox.parked_place') IS NULL THEN
        DELETE FROM pgoutbox.parked AS again USING pgoutbox.parked AS first
         WHERE again.slot = first.slot AND again.outbox = first.outbox
           AND again.commit_lsn = first.commit_lsn AND again.index = first.index
           AND again.event_id IS NULL AND again.seq > first.seq;
    END IF;
END
$$;
CREATE UNIQUE INDEX IF NOT EXISTS parked_place
    ON pgoutbox.parked (slot, outbox, commit_lsn, index, digest);
-- A hash index holds a hash only, and serves "=".
CREATE INDEX IF NOT EXISTS parked_id ON pgoutbox.parked USING hash (event_id);
-- For who asks of each row of an outbox whether it is parked: a row may be without an id.
CREATE INDEX IF NOT EXISTS parked_row ON pgoutbox.parked USING hash (coalesce(event_id, ''));
-- The first of each aggregate, and how many wait for anything.
CREATE INDEX IF NOT EXISTS parked_due ON pgoutbox.parked (slot, next_attempt_at)
 WHERE state IN ('parked', 'failed');
CREATE INDEX IF NOT EXISTS parked_waiting
    ON pgoutbox.parked (slot, hashtextextended(aggregate_id, 0), seq)
 WHERE state IN ('parked', 'queued', 'failed');
CREATE INDEX IF NOT EXISTS parked_delivered ON pgoutbox.parked (slot) WHERE state = 'delivered';
-- What is in flight.
CREATE INDEX IF NOT EXISTS parked_claimed ON pgoutbox.parked (slot) WHERE claimed_at IS NOT NULL;
-- What the rows in the outbox are to show.
CREATE INDEX IF NOT EXISTS parked_changed ON pgoutbox.parked (changed_at) WHERE state <> 'queued';

-- Whether a record is that of a row of its table with the same id: all who ask which rows are
-- parked, or were, ask here. The id alone does not tell: it may have been used again.
-- 1. Where both say when the event happened, that tells.
-- 2. Else the transaction that wrote the row does: the event's own, or the relay's, which shows
--    there how often it was tried.
-- 3. A row that somebody else has updated since is not known by these. While the event is still to be
--    delivered, the record counts as its own, unless the table was truncated. Once it is done with
--    (discarded, say) the row is its own where it also has the same content in the columns that
--    make the message. In doubt it is not: better one row too many that is told of than one too few.
-- Records of older versions know only the id.
-- row_names: the columns of its id and of what makes its message, the payload first; row_cells: what is
-- in these, without the id. One that the table lacks, or that may not be read, is named as the id is.
CREATE OR REPLACE FUNCTION pgoutbox.is_record_of(
    record pgoutbox.parked, row_xmin xid, row_occurred_at text, row_names text[], row_cells text[])
    RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN record.xid IS NULL THEN true
        WHEN record.occurred_at IS NOT NULL AND row_occurred_at IS NOT NULL
            THEN record.occurred_at = row_occurred_at
        -- Transaction ids go round.
        WHEN (row_xmin::text::bigint - record.xid + 4294967296) % 4294967296
             < (record.xid_end - record.xid + 4294967296) % 4294967296 THEN true
        WHEN row_xmin::text::bigint = record.shown_xid THEN true
        WHEN record.filenode IS DISTINCT FROM pg_relation_filenode(record.outbox) THEN false
        WHEN record.state IN ('parked', 'queued', 'failed') THEN true
        -- Of a partitioned table nothing says that it was truncated.
        WHEN record.filenode IS NULL OR row_names[2] = row_names[1] THEN false
        ELSE NOT EXISTS (
             SELECT FROM unnest(row_names[2:], row_cells) AS wanted (name, cell)
               LEFT JOIN jsonb_array_elements(record.columns) WITH ORDINALITY AS known (one, number)
                      ON known.one ->> 'name' = wanted.name
              WHERE wanted.name <> row_names[1]
                AND (known.number IS NULL
                     OR record.cells[known.number] IS DISTINCT FROM convert_to(wanted.cell,
                            -- As the stream brought them: text without an encoding as it stands.
                            CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)))
    END;
GRANT EXECUTE ON FUNCTION pgoutbox.is_record_of(pgoutbox.parked, xid, text, text[], text[]) TO PUBLIC;
-- The tries of an event, with one more.
CREATE OR REPLACE FUNCTION pgoutbox.with_try(tries jsonb, reason text, error text)
    RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN reason IS NULL THEN tries
        WHEN (tries -> -1 ->> 'reason', tries -> -1 ->> 'error') = (reason, error)
            THEN jsonb_set(jsonb_set(tries, '{-1,times}', to_jsonb((tries -> -1 ->> 'times')::bigint + 1)),
                           '{-1,last}', to_jsonb(now()))
        ELSE CASE WHEN jsonb_array_length(tries) >= 20 THEN tries - 0 ELSE tries END
             || jsonb_build_object('reason', reason, 'error', error, 'times', 1, 'first', now(), 'last', now())
    END;
GRANT EXECUTE ON FUNCTION pgoutbox.with_try(jsonb, text, text) TO PUBLIC;
-- The events of an aggregate that wait for one another, whatever table they are of: this, and
-- nothing else, is the order in which they go. The first of them is the one with the lowest seq.
CREATE OR REPLACE FUNCTION pgoutbox.parked_queue(of_slot name, of_type text, of_id text)
RETURNS TABLE (seq bigint) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT parked.seq
      FROM pgoutbox.parked
     WHERE parked.slot = of_slot
       AND hashtextextended(parked.aggregate_id, 0) = hashtextextended(of_id, 0)
       AND parked.aggregate_id = of_id AND parked.aggregate_type IS NOT DISTINCT FROM of_type
       AND parked.is_holding AND parked.state IN ('parked', 'queued', 'failed')
$$;
-- Where each parked event of a slot stands: behind which one, itself where it is the first or
-- waits for none, null where it is done with; and its state as that makes it.
CREATE OR REPLACE FUNCTION pgoutbox.parked_places(of_slot name)
RETURNS TABLE (seq bigint, is_holding boolean, head bigint, state text) LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT parked.seq, parked.is_holding,
           CASE WHEN parked.state IN ('parked', 'queued', 'failed') THEN coalesce(first.seq, parked.seq) END,
           CASE WHEN first.seq < parked.seq THEN 'queued'
                WHEN parked.state = 'queued' THEN 'parked'
                ELSE parked.state END
      FROM pgoutbox.parked
      LEFT JOIN LATERAL (
           -- The first by the index. min() would read the whole queue for each event that waits in it.
           SELECT queue.seq
             FROM pgoutbox.parked_queue(parked.slot, parked.aggregate_type, parked.aggregate_id) AS queue
            WHERE parked.is_holding AND parked.state IN ('parked', 'queued', 'failed')
            ORDER BY queue.seq LIMIT 1) AS first ON true
     WHERE parked.slot = of_slot
$$;

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
    id          text,
    PRIMARY KEY (slot, n)
);
-- A row is known by where it stood when it was listed, and by its id where it has moved since. One
-- without an id, or with an id that others on the list have too, is kept whole.
ALTER TABLE pgoutbox.catch_up_rows
    ALTER COLUMN id DROP NOT NULL,
    ADD COLUMN IF NOT EXISTS leaf      oid,     -- the table or partition that held it,
    ADD COLUMN IF NOT EXISTS place     tid,     -- where it stood there,
    ADD COLUMN IF NOT EXISTS xid       bigint,  -- and the transaction that wrote it
    ADD COLUMN IF NOT EXISTS is_shared boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS content   json;

-- Whether the relay of a slot is paused: it is where there is a row. `pgoutbox pause` makes it,
-- `pgoutbox resume` removes it.
CREATE TABLE IF NOT EXISTS pgoutbox.pause (
    slot      name        PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT now(),
    paused_by text        NOT NULL,
    note      text
);

-- How the guard over the WAL last found it, for `pgoutbox status`. One row per slot, written when
-- its level changes and every ten minutes while it is not calm.
CREATE TABLE IF NOT EXISTS pgoutbox.guard (
    slot    name        PRIMARY KEY,
    level   text        NOT NULL CHECK (level IN ('calm', 'warning', 'critical')),
    verdict jsonb       NOT NULL,        -- its figures; what and hint in words
    since   timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- Over how many relays an outbox is spread, by the slot's name as it is configured. No row: over none. A relay
-- that is configured for another number is refused.
CREATE TABLE IF NOT EXISTS pgoutbox.layout (
    slot       name        PRIMARY KEY,
    shards     integer     NOT NULL CHECK (shards > 0),
    moving_to  integer,                  -- `pgoutbox reshard` is under way: nobody may run
    former     integer,                  -- over how many before, while slots of that are to be dropped
    changed_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON pgoutbox.layout TO PUBLIC;
