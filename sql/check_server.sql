-- What else `check` looks at: nothing of it stops a relay that streams. One row.
--   psql -v slot=pgoutbox -v publication=pgoutbox -v stream_role=pgoutbox_stream -v tables='[["public", "outbox_messages"]]' -f check_server.sql
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock_micros,
       pg_backend_pid() AS backend_pid,
       -- Sent along at the start of the connection: a pooler drops it.
       current_setting('pgoutbox.probe', true) AS probe,
       EXISTS (SELECT FROM pg_roles WHERE rolname = :'stream_role') AS has_stream_role,
       (SELECT count(*)::integer FROM pg_stat_get_wal_senders()) AS senders,
       current_setting('max_wal_senders')::integer AS max_senders,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout') AS wal_sender_timeout_ms,
       current_setting('wal_sender_timeout') AS wal_sender_timeout,
       nullif(current_setting('idle_replication_slot_timeout', true), '0') AS idle_slot_timeout, -- from 18 on
       -- A slot reads the catalog as it was when each row was written. What was written by a
       -- transaction that is not older than all that the slot may still read may be too new for it.
       coalesce((SELECT age(publication.xmin) BETWEEN 0 AND age(slot.catalog_xmin)
                   FROM pg_replication_slots AS slot, pg_publication AS publication
                  WHERE slot.slot_name = :'slot' AND slot.database = current_database()
                    AND publication.pubname = :'publication'), false) AS is_publication_new,
       coalesce((SELECT array_agg(relation.oid::regclass::text)
                   FROM jsonb_array_elements(:'tables'::jsonb) AS wanted (names)
                   JOIN pg_namespace AS namespace ON namespace.nspname = wanted.names ->> 0
                   JOIN pg_class AS relation
                     ON relation.relnamespace = namespace.oid AND relation.relname = wanted.names ->> 1
                   JOIN pg_publication_rel AS member ON member.prrelid = relation.oid
                   JOIN pg_publication AS publication
                     ON publication.oid = member.prpubid AND publication.pubname = :'publication'
                   JOIN pg_replication_slots AS slot
                     ON slot.slot_name = :'slot' AND slot.database = current_database()
                  WHERE age(member.xmin) BETWEEN 0 AND age(slot.catalog_xmin)), '{}') AS new_members;
