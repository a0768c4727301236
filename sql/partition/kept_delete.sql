-- Whether a partition holds a row at all, where audit.mode is delete: each is one that must stay.
--   psql -v schema=public -v partition=outbox_messages_d20260101 -f partition/kept_delete.sql
SELECT EXISTS (SELECT FROM :"schema".:"partition") AS is_kept;
