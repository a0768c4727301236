-- A number of a column that holds the time as one: its size gives the unit. One row, or none.
--   psql -v schema=public -v table=outbox_messages -v occurred_at=occurred_at -f table/epoch.sql
SELECT outbox.:"occurred_at"::text::bigint AS number
  FROM :"schema".:"table" AS outbox
 WHERE outbox.:"occurred_at" > 0
 LIMIT 1;
