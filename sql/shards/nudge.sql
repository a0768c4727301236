-- Has the server say in the WAL which transactions run, so that slots learn sooner that none is older than a
-- publication. By itself it does so every 15 seconds.
--   psql -f shards/nudge.sql
CHECKPOINT;
