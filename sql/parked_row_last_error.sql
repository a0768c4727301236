-- Rows of the outbox show of their parked events: last_error. Of those that changed lately, for the
-- row may not be visible yet when its event is parked. The record keeps who wrote the row last.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v id_schema=pg_catalog -v id_type=uuid -v last_error=last_error -f parked_row_last_error.sql
WITH shown AS (
    UPDATE :"schema".:"table" AS outbox
       SET :"last_error" = parked.last_error
      FROM pgoutbox.parked AS parked
     WHERE parked.outbox = :'relation'::oid::regclass
       AND parked.changed_at > now() - interval '1 minute' AND parked.state <> 'queued'
       AND outbox.:"id" = parked.event_id:::"id_schema".:"id_type"
       -- Not of a row with a used id in a table that was truncated since.
       AND (parked.filenode IS NULL OR parked.filenode = pg_relation_filenode(parked.outbox))
       AND outbox.:"last_error" IS DISTINCT FROM parked.last_error
    RETURNING parked.seq
)
UPDATE pgoutbox.parked
   SET shown_xid = pg_current_xact_id()::text::bigint % 4294967296
 WHERE seq IN (SELECT seq FROM shown);
