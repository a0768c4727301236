-- Events that no queue took. One row.
--   psql -v slot=pgoutbox -f check/returned.sql
SELECT count(*) AS events
  FROM pgoutbox.parked
 WHERE slot = :'slot' AND reason = 'returned' AND state IN ('parked', 'failed');
