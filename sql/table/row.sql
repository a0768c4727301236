-- The row with this id, where it is in an outbox table: one row, or none. All of it, as JSON, since not
-- every table has the columns of a mark.
--   psql -v schema=public -v table=outbox_messages -v id=id -v id_schema=pg_catalog -v id_type=uuid \
--        -v event_id=7 -f table/row.sql
SELECT to_jsonb(outbox)::text AS content
  FROM :"schema".:"table" AS outbox
 WHERE outbox.:"id":::"id_schema".:"id_type" = :'event_id'::text:::"id_schema".:"id_type"
 LIMIT 1;
