-- Slots of other relays that mark rows of the same tables, each with the first of these: where both publications filter
-- the rows of a table, they are taken for shares of it.
--   psql -v slot=pgoutbox -v publication=pgoutbox -v relations='{16389}' -f slot/sharing.sql
WITH filtered AS (
    SELECT publication.pubname, member.prrelid AS relation
      FROM pg_publication_rel AS member
      JOIN pg_publication AS publication ON publication.oid = member.prpubid
     WHERE to_jsonb(member) ->> 'prqual' IS NOT NULL   -- from 15 on
)
SELECT progress.slot::text AS slot, min(format('%s.%s', kept.schema, kept.name)) AS table
  FROM pgoutbox.progress AS progress
  JOIN pg_replication_slots AS slot ON slot.slot_name = progress.slot,
       jsonb_to_recordset(coalesce(nullif(to_jsonb(progress) -> 'tables', 'null'), '[]'))
           AS kept (relation oid, schema text, name text, publication text, is_marked boolean)
 WHERE progress.slot <> :'slot' AND kept.is_marked AND kept.relation = ANY (:'relations'::oid[])
   AND NOT (EXISTS (SELECT FROM filtered WHERE filtered.pubname = kept.publication AND filtered.relation = kept.relation)
            AND EXISTS (SELECT FROM filtered WHERE filtered.pubname = :'publication' AND filtered.relation = kept.relation))
 GROUP BY progress.slot
 ORDER BY progress.slot;
