-- Puts an event aside whose row is too large to be a parameter: it comes in pieces. What the server knows of
-- it is filled in by park/large_filled.sql, in the same transaction.
COPY pgoutbox.parked
       (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time, state, is_holding,
        reason, last_error, hint, attempts, columns, xid, occurred_at, prefix, cells)
FROM STDIN (FORMAT binary);
