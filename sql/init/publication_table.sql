-- One more table in the publication. Rows committed before this are not in the stream.
--   psql -v publication=pgoutbox -v schema=public -v table=other_outbox -v where= -f init/publication_table.sql
ALTER PUBLICATION :"publication" ADD TABLE :"schema".:"table" :where;
