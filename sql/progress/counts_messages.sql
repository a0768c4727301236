-- Whether the place of a slot is in the middle of a transaction, and counts its messages.
--   psql -v slot=pgoutbox -f progress/counts_messages.sql
SELECT settled > 0 AND coalesce((to_jsonb(progress) ->> 'messages')::boolean, false) AS counts_messages
  FROM pgoutbox.progress WHERE slot = :'slot';
