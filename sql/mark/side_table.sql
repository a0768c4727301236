-- Marks delivered events in a table beside the outbox. All ids are answered, whether or not they were
-- marked before.
--   $1 text[]: ids, $2 bigint[]: the transactions that wrote the rows, $3 bigint[]: the first that had
--   not begun then, null: that have not now, $4 text[]: when the events happened by the rows' account
WITH marked AS (
    INSERT INTO pgoutbox.relayed (outbox, id, event, xid_end)
    SELECT :'relation'::oid::regclass, one.id,
           coalesce(hashtextextended(one.occurred_at COLLATE "C", 0), one.xid, 0),
           CASE WHEN one.occurred_at IS NULL AND one.xid IS NOT NULL
                THEN coalesce(one.xid_end, pg_snapshot_xmax(pg_current_snapshot())::text::bigint % 4294967296) END
      FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS one (id, xid, xid_end, occurred_at)
        ON CONFLICT DO NOTHING
)
SELECT unnest($1::text[]);
