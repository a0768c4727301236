-- Whether a transaction left rows in a table.
--   psql -v schema=public -v table=outbox_messages -v xid=750 -f table/written_by.sql
SELECT EXISTS (SELECT FROM :"schema".:"table" AS outbox WHERE outbox.xmin = :'xid'::xid) AS is_written;
