-- The publication: inserts only, so that marks and deletes are never sent. Make it before the
-- slot: a slot reads the catalog as it was when each row was written.
--   psql -v publication=pgoutbox -v schema=public -v table=outbox_messages -f init/publication.sql
CREATE PUBLICATION :"publication" FOR TABLE :"schema".:"table"
    WITH (publish = 'insert', publish_via_partition_root = true);
