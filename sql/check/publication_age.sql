-- What of the publication may be too new for the slot, which reads the catalog as it was when each row was
-- written: made or altered by a transaction that is not older than all that the slot may still read. One
-- row for the publication itself, without a name, and one for each such table or schema.
--   psql -v slot=pgoutbox -v publication=pgoutbox -f check/publication_age.sql
SELECT made.name,
       -- The relay's own row of the slot was written when the slot was there.
       coalesce(age(made.xid) < age(slot.known_at), false) AS is_newer_than_slot
  FROM (SELECT state.catalog_xmin,
               (SELECT xmin FROM pgoutbox.progress AS progress WHERE progress.slot = :'slot') AS known_at
          FROM pg_replication_slots AS state
         WHERE state.slot_name = :'slot' AND state.database = current_database()) AS slot,
       (SELECT NULL::text, publication.xmin FROM pg_publication AS publication
         WHERE publication.pubname = :'publication'
        UNION ALL
        SELECT member.prrelid::regclass::text, member.xmin
          FROM pg_publication_rel AS member
          JOIN pg_publication AS publication ON publication.oid = member.prpubid
         WHERE publication.pubname = :'publication'
        UNION ALL                          -- FOR TABLES IN SCHEMA, from 15 on
        SELECT 'the tables of schema ' || entry.refobjid::regnamespace::text, entry.xmin
          FROM pg_depend AS entry
          JOIN pg_depend AS its_publication
            ON its_publication.classid = entry.classid AND its_publication.objid = entry.objid
           AND its_publication.refclassid = 'pg_publication'::regclass
          JOIN pg_publication AS publication ON publication.oid = its_publication.refobjid
         WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace')
           AND entry.refclassid = 'pg_namespace'::regclass
           AND publication.pubname = :'publication') AS made (name, xid)
 WHERE age(made.xid) BETWEEN 0 AND age(slot.catalog_xmin)
 ORDER BY is_newer_than_slot DESC, made.name NULLS FIRST;
