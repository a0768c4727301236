-- Numbers the rows that wait in the order in which they are published, across all tables: by
-- the time of the commit where the server keeps it (track_commit_timestamp), else by
-- occurred_at, then by id. "waiting" is catch_up_waiting.sql of each table.
INSERT INTO pgoutbox.catch_up_rows (slot, n, outbox, id)
SELECT :'slot',
       row_number() OVER (ORDER BY coalesce(committed_at, occurred_at),
                                   CASE WHEN committed_at IS NOT NULL THEN command END,
                                   occurred_at, number, id COLLATE "C") - 1,
       outbox, id
  FROM waiting;
-- Inserted where somebody took it away meanwhile: without it the list would not be read.
INSERT INTO pgoutbox.catch_up (slot, why, state, consistent_lsn, total)
VALUES (:'slot', :'why', 'listed', :'consistent_lsn',
        (SELECT count(*) FROM pgoutbox.catch_up_rows WHERE slot = :'slot'))
ON CONFLICT (slot) DO UPDATE
   SET state = excluded.state, consistent_lsn = excluded.consistent_lsn, total = excluded.total;
COMMIT;
