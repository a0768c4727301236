-- A constraint that kept a row from being deleted.
--   psql -v schema=public -v table=invoices -v constraint=invoices_event_fkey -f prune/constraint.sql
SELECT pg_get_constraintdef(it.oid) AS definition
  FROM pg_constraint AS it
  JOIN pg_class AS relation ON relation.oid = it.conrelid
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE namespace.nspname = :'schema' AND relation.relname = :'table' AND it.conname = :'constraint';
