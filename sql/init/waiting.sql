-- How many rows of a table wait, where nothing of pgoutbox's own is there yet: none is parked, and none is
-- marked beside the table.
--   psql -v schema=public -v table=outbox_messages -v mode=update -v marked='outbox.relayed_at IS NOT NULL' -v filter=true -f init/waiting.sql
SELECT count(*) AS rows FROM :"schema".:"table" AS outbox
 WHERE (:filter) AND (:'mode' <> 'update' OR NOT (:marked));
