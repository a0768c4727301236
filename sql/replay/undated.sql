-- Rows that have no time of commit, though the server keeps it now: they were written before it
-- did, or so long ago that their transaction is frozen. A range of commits finds none of them.
--   psql -v schema=public -v table=outbox_messages -f replay/undated.sql
SELECT count(*) AS rows
  FROM :"schema".:"table" AS outbox
 WHERE pg_xact_commit_timestamp(outbox.xmin) IS NULL;
