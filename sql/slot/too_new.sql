-- Whether the publication, as it is, may be newer than what a slot still reads: it sees the catalog as it was
-- when each row was written.
--   psql -v from=debezium -v publication=pgoutbox -f slot/too_new.sql
SELECT coalesce(bool_or(age(made.xid) BETWEEN 0 AND age(slot.catalog_xmin)), true) AS is_too_new,
       pg_current_wal_lsn()::text AS wal_lsn
  FROM pg_replication_slots AS slot,
       (SELECT xmin FROM pg_publication WHERE pubname = :'publication'
        UNION ALL
        SELECT member.xmin
          FROM pg_publication_rel AS member
          JOIN pg_publication AS publication ON publication.oid = member.prpubid
         WHERE publication.pubname = :'publication'
        UNION ALL                          -- FOR TABLES IN SCHEMA, from 15 on
        SELECT entry.xmin
          FROM pg_depend AS entry
          JOIN pg_publication AS publication ON publication.oid = entry.refobjid
         WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace')
           AND entry.refclassid = 'pg_publication'::regclass
           AND publication.pubname = :'publication') AS made (xid)
 WHERE slot.slot_name = :'from';
