-- Takes some rows of a list that is done with away; says how many.
--   psql -v slot=pgoutbox -f catch_up/sweep.sql
WITH swept AS (
    DELETE FROM pgoutbox.catch_up_rows
     WHERE slot = :'slot'
       AND n < 10000 + (SELECT min(n) FROM pgoutbox.catch_up_rows WHERE slot = :'slot')
    RETURNING n
)
SELECT count(*) AS rows FROM swept;
