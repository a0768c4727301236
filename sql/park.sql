-- Puts an event aside. One that is there already stays as it is: the stream brought it again.
--   $1 name: slot, $2 oid: outbox, $3 text: id, $4 text, $5 text: its aggregate,
--   $6 pg_lsn, $7 bigint: its place, $8 bigint: time of its commit (microseconds since 2000),
--   $9 text: state, $10 boolean: holds its aggregate, $11 text: reason, $12 text: error,
--   $13 text: mend, $14 integer: attempts, $15 bigint: milliseconds to its next try,
--   $16 text: columns, $17 bytea[]: cells
INSERT INTO pgoutbox.parked
       (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time,
        state, is_holding, reason, last_error, mend, attempts, next_attempt_at, columns, cells)
VALUES ($1, $2::oid::regclass, $3, $4, $5, $6, $7,
        timestamptz '2000-01-01 00:00:00+00' + $8::bigint * interval '1 microsecond',
        $9, $10, $11, $12, $13, $14, now() + $15::bigint * interval '1 millisecond',
        $16::text::jsonb, $17)
ON CONFLICT DO NOTHING;
