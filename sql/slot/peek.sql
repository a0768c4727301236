-- Rows inserted into tables of the publication that a slot has not passed, which stays where it is. After so
-- many changes no further transaction is read.
--   psql -v from=debezium -v publication=pgoutbox -v most=100000 -f slot/peek.sql
SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('I')) AS rows, count(*) >= :'most'::integer AS has_more
  FROM pg_logical_slot_peek_binary_changes(:'from', NULL, :'most'::integer,
                                           'proto_version', '1', 'publication_names', quote_ident(:'publication'));
