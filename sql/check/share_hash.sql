-- A hash of a text as the row filters of shards make it: the relay makes the same, unless the server has
-- another byte order or another encoding.
--   psql -v text='abc' -f check/share_hash.sql
SELECT hashtextextended(:'text'::text COLLATE "C", 0) AS hash;
