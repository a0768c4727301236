-- The publication where there is no table: events come as messages, which need none.
--   psql -v publication=pgoutbox -f init/publication_empty.sql
CREATE PUBLICATION :"publication" WITH (publish = 'insert', publish_via_partition_root = true);
