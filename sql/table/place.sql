-- The id of the row at a place of a table. One that may be no text is left out.
--   psql -v schema=public -v table=outbox_messages -v id=id -v leaf=16389 -v place='(0,1)' -f table/place.sql
SELECT CASE WHEN getdatabaseencoding() <> 'SQL_ASCII' THEN outbox.:"id"::text END AS id
  FROM :"schema".:"table" AS outbox
 WHERE outbox.tableoid = :'leaf'::oid AND outbox.ctid = :'place'::tid;
