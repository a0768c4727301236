-- How many rows of a table wait, where nothing of pgoutbox's own is there yet: none is parked, and none is
-- marked beside the table. among: rows that are looked at.
--   psql -v schema=public -v table=outbox_messages -v mode=update -v marked='outbox.relayed_at IS NOT NULL' -v filter=true -v among=true -f init/waiting.sql
SELECT count(*) AS rows FROM :"schema".:"table" AS outbox
 WHERE (:among)
   AND CASE WHEN (:among) THEN (:filter) ELSE false END
   AND (:'mode' <> 'update' OR NOT (:marked));
