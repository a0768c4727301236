-- Slots of other relays in this database, by what they have recorded.
--   psql -v slot=pgoutbox -f slot/others.sql
SELECT slot::text AS slot FROM pgoutbox.progress
 WHERE slot <> :'slot' AND (end_lsn <> '0/0' OR commit_lsn IS NOT NULL)   -- One that never had a slot waits in vain.
 ORDER BY 1;
