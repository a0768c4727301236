-- The publication: inserts only, so that marks and deletes are never sent. Make it before the
-- slot: a slot reads the catalog as it was when each row was written. From Postgres 15 on it can leave
-- rows out: where='WHERE (event_type IN (...))'.
--   psql -v publication=pgoutbox -v schema=public -v table=outbox_messages -v where= -f init/publication.sql
CREATE PUBLICATION :"publication" FOR TABLE :"schema".:"table" :where
    WITH (publish = 'insert', publish_via_partition_root = true);
