-- Numbers the rows that wait in the order in which they are published, across all tables: by
-- the time of the commit where the server keeps it (track_commit_timestamp), else by
-- occurred_at; rows that have neither by numeric ids, else by which transaction began first.
-- Within a transaction, and a statement, in the order in which they were inserted.
-- "waiting" is catch_up/waiting.sql of each table.
INSERT INTO pgoutbox.catch_up_rows (slot, n, outbox, id, leaf, place, xid, is_shared)
SELECT :'slot',
       row_number() OVER (ORDER BY coalesce(committed_at, occurred_at),
                                   CASE WHEN committed_at IS NOT NULL THEN command END,
                                   occurred_at, number,
                                   CASE WHEN occurred_at IS NULL THEN age END DESC,
                                   command, leaf, place) - 1,
       outbox, id, leaf, place, xid,
       id IS NULL OR count(*) OVER (PARTITION BY outbox, id) > 1
  FROM waiting;
