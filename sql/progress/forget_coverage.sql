-- What passed by the slot, if anything did, is taken for published: the relay goes on with the
-- stream.
--   psql -v slot=pgoutbox -f progress/forget_coverage.sql
UPDATE pgoutbox.progress SET coverage = NULL WHERE slot = :'slot';
