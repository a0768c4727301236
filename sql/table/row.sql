-- Whether a row with this id is in an outbox table, and since when it is marked: one row, or none.
-- The whole row goes through JSON, as not every table has the column.
--   psql -v schema=public -v table=outbox_messages -v id=id -v relayed_at=relayed_at -v event_id=7 -f table/row.sql
SELECT to_jsonb(outbox) ->> :'relayed_at' AS relayed_at
  FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id" = :'event_id'
 LIMIT 1;
