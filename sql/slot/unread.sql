-- Slots of relays of this database that nobody reads, but for one: they keep WAL. A relay had them by what
-- pgoutbox's own tables hold: under a name that postgres.slot had before, say. is_same: it read one of these tables by
-- the same publication, or just these: asked is a digest of their names.
--   psql -v slot=pgoutbox -v asked=4711 -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f slot/unread.sql
SELECT slot.slot_name::text AS slot,
       pg_wal_lsn_diff(at.wal_lsn, slot.restart_lsn)::bigint AS retained_bytes,
       coalesce(((to_jsonb(progress) ->> 'coverage')::bigint >> 32) & 4294967295 = :'asked'::bigint, false)
       OR EXISTS (SELECT FROM jsonb_to_recordset(coalesce(nullif(to_jsonb(progress) -> 'tables', 'null'), '[]'))
                           AS kept (schema text, name text, publication text)
                    JOIN jsonb_array_elements(:'tables'::jsonb) AS wanted (names)
                      ON kept.schema = wanted.names ->> 0 AND kept.name = wanted.names ->> 1
                   WHERE kept.publication = :'publication') AS is_same
  FROM pg_replication_slots AS slot
  LEFT JOIN pgoutbox.progress AS progress ON progress.slot = slot.slot_name,
       LATERAL (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS wal_lsn) AS at
 WHERE slot.slot_name <> :'slot' AND slot.plugin = 'pgoutput' AND slot.database = current_database()
   AND NOT slot.active AND NOT slot.temporary
   -- A lost one keeps nothing.
   AND slot.wal_status IS DISTINCT FROM 'lost' AND at.wal_lsn > slot.restart_lsn
   AND (progress.slot IS NOT NULL OR slot.slot_name IN (SELECT guard.slot FROM pgoutbox.guard AS guard))
 ORDER BY slot.slot_name;
