-- The next rows to replay.
--   psql -v cursor=replay_0 -f replay/fetch.sql
FETCH 200 FROM :"cursor";
