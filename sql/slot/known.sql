-- Whether this name was ever the slot of a relay here. One that never was is a slip in the
-- settings rather than a loss.
--   psql -v slot=pgoutbox -f slot/known.sql
SELECT EXISTS (SELECT FROM pgoutbox.catch_up WHERE slot = :'slot')
    OR EXISTS (SELECT FROM pgoutbox.progress
                WHERE slot = :'slot' AND (end_lsn <> '0/0' OR commit_lsn IS NOT NULL)) AS is_known;
