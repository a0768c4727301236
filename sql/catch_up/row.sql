-- Which row of the list a number is. An id that may be no text is left out.
--   psql -v slot=pgoutbox -v n=0 -f catch_up/row.sql
SELECT CASE WHEN getdatabaseencoding() <> 'SQL_ASCII' THEN id END AS id,
       coalesce(leaf::regclass::text, 'a table that is gone') AS leaf, coalesce(place::text, '?') AS place
  FROM pgoutbox.catch_up_rows
 WHERE slot = :'slot' AND n = :'n'::bigint;
