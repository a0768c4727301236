-- Whether a session owns the slot, or a later one has taken it over.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -f progress/is_ours.sql
SELECT EXISTS (SELECT FROM pgoutbox.progress
                WHERE slot = :'slot' AND session = :'session'::uuid) AS is_ours;
