-- Rows without a mark, from a sample of the table's pages: no index on relayed_at is wanted,
-- so a count would read the whole table. 100 per cent counts them all, in a small table.
--   psql -v schema=public -v table=outbox_messages -v relayed_at=relayed_at -v percent=100 -f unmarked.sql
SELECT count(*) AS rows FROM :"schema".:"table" TABLESAMPLE SYSTEM (:'percent'::float4)
 WHERE :"relayed_at" IS NULL;
