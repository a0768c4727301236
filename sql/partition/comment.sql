-- Tells the next pass what a table was, should this one be cut short after DETACH ... CONCURRENTLY.
--   psql -v schema=public -v partition=outbox_messages_d20260101 -v comment='...' -f partition/comment.sql
COMMENT ON TABLE :"schema".:"partition" IS :'comment';
