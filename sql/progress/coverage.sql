-- By what the publication covered the tables when a session last saw to it; null: not known.
--   psql -v slot=pgoutbox -f progress/coverage.sql
SELECT (to_jsonb(progress) ->> 'coverage')::bigint AS coverage
  FROM pgoutbox.progress AS progress WHERE slot = :'slot';
