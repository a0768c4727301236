-- Puts an event aside. One that is there already stays as it is: the stream brought it again.
--   $1 name: slot, $2 oid: outbox, 0 of a message, $3 text: id, $4 text, $5 text: its aggregate,
--   $6 pg_lsn, $7 bigint: its place, $8 bigint: time of its commit (microseconds since 2000),
--   $9 text: state, $10 boolean: holds its aggregate, $11 text: reason, $12 text: error,
--   $13 text: hint, $14 integer: attempts, $15 bigint: milliseconds to its next try,
--   $16 text: columns, $17 bytea[]: cells, $18 bigint: the transaction that wrote the row, where that
--   is known, $19 text: when it happened by the row's own account, $20 text: the prefix of a message
INSERT INTO pgoutbox.parked
       (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time,
        state, is_holding, reason, last_error, hint, attempts, next_attempt_at, columns, cells,
        digest, xid, xid_end, occurred_at, filenode, prefix, tries)
VALUES ($1, $2::oid::regclass, $3, $4, $5, $6, $7,
        timestamptz '2000-01-01 00:00:00+00' + $8::bigint * interval '1 microsecond',
        $9, $10, $11, $12, $13, $14, now() + $15::bigint * interval '1 millisecond',
        $16::text::jsonb, $17::bytea[],
        -- As in init/schema.sql.
        (SELECT sha256(string_agg(coalesce(sha256(cell), '\x00'), ''::bytea ORDER BY number))
           FROM unnest($17::bytea[]) WITH ORDINALITY AS one (cell, number)),
        $18::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint % 4294967296, $19::text,
        pg_relation_filenode($2::oid::regclass), $20::text, pgoutbox.with_try('[]', $11, $12))
ON CONFLICT (slot, outbox, commit_lsn, index, digest) DO NOTHING;
