-- Rows of the list that are of none of these tables: theirs is gone, or cannot be read.
--   psql -v slot=pgoutbox -v relations='{16389}' -f catch_up/orphans.sql
SELECT count(*) AS rows FROM pgoutbox.catch_up_rows
 WHERE slot = :'slot' AND outbox::oid <> ALL (:'relations'::oid[]);
