-- Has the relay of a slot publish nothing more until it is resumed, whichever process it is and
-- however often it restarts. A relay that runs hears of it at once. One row, also where it was
-- paused before: whose pause it is does not change.
--   psql -v slot=pgoutbox -v note='the consumers are migrated' -f pause.sql
WITH paused AS (
    INSERT INTO pgoutbox.pause AS pause (slot, paused_by, note)
    VALUES (:'slot',
            concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
            nullif(:'note', ''))
        ON CONFLICT (slot) DO UPDATE SET slot = excluded.slot
    RETURNING slot, paused_at, paused_by, note
)
SELECT to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS paused_at, paused_by,
       note, pg_notify('pgoutbox_parked', slot::text)::text AS told
  FROM paused;
