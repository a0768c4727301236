-- Slots of other relays in this database, by what they have recorded.
--   psql -v slot=pgoutbox -f slot/others.sql
SELECT slot::text AS slot FROM pgoutbox.progress WHERE slot <> :'slot' ORDER BY 1;
