-- Whether a table has rows that were written before a transaction, or by it: each may have been written before.
--   psql -v schema=public -v table=outbox_messages -v xid=750 -f table/written_before.sql
SELECT EXISTS (SELECT FROM :"schema".:"table" AS outbox
                WHERE age(outbox.xmin) >= age(:'xid'::xid)) AS is_written;
