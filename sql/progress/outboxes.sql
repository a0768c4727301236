-- The tables that the slot's relay has read as outboxes, as they are named today: those that are gone,
-- or that this role may not read, are left out.
--   psql -v slot=pgoutbox -f progress/outboxes.sql
SELECT kept.relation, kept.schema, kept.name, kept.until,
       namespace.nspname::text AS schema_now, relation.relname::text AS name_now
  FROM pgoutbox.progress AS progress,
       jsonb_to_recordset(coalesce(nullif(to_jsonb(progress) -> 'tables', 'null'), '[]')) AS kept (relation oid, schema text, name text, until text)
  JOIN pg_class AS relation ON relation.oid = kept.relation AND relation.relkind IN ('r', 'p')
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE progress.slot = :'slot'
   AND has_schema_privilege(namespace.oid, 'USAGE') AND has_table_privilege(relation.oid, 'SELECT')
 ORDER BY kept.relation;
