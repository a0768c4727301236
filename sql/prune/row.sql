-- The id of the row at a place that pruning could not empty.
--   psql -v schema=public -v table=outbox_messages -v id=id -v place='(0,1)' -f prune/row.sql
SELECT row.:"id"::text AS id FROM ONLY :"schema".:"table" AS row WHERE row.ctid = :'place'::tid;
