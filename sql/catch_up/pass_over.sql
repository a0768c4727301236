-- Takes a row that cannot be read off the list: it does not count as delivered, whatever becomes of it and however far
-- the list is. Says which it is; an id that may be no text is left out.
--   psql -v slot=pgoutbox -v n=0 -f catch_up/pass_over.sql
DELETE FROM pgoutbox.catch_up_rows
 WHERE slot = :'slot' AND n = :'n'::bigint
RETURNING CASE WHEN getdatabaseencoding() <> 'SQL_ASCII' THEN id END AS id,
          coalesce(leaf::regclass::text, 'a table that is gone') AS leaf, coalesce(place::text, '?') AS place;
