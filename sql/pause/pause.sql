-- Has the relay of a slot publish nothing more until it is resumed, whichever process it is and
-- however often it restarts. A relay that runs hears of it at once. One row, also where it was
-- paused before: whose pause it is and since when does not change, and a further note is added.
--   psql -v slot=pgoutbox -v note='the consumers are migrated' -f pause/pause.sql
WITH paused AS (
    INSERT INTO pgoutbox.pause AS pause (slot, paused_by, note)
    VALUES (:'slot',
            concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
            nullif(:'note', ''))
        ON CONFLICT (slot) DO UPDATE
           SET note = CASE WHEN strpos(coalesce(pause.note, ''), excluded.note) > 0 THEN pause.note
                           -- The first says why, the last are news; what is between goes.
                           ELSE (SELECT CASE WHEN length(joined) <= 1000 THEN joined
                                             ELSE left(joined, 400) || ' ... ' || right(joined, 595) END
                                   FROM concat_ws('; ', pause.note, format('%s: %s', excluded.paused_by, excluded.note)) AS joined (joined)) END
         WHERE excluded.note IS NOT NULL
    RETURNING slot, paused_at, paused_by, note
), standing AS (
    -- As it was before this statement.
    SELECT slot, paused_at, paused_by, note FROM pgoutbox.pause WHERE slot = :'slot'
), told AS (
    SELECT slot, paused_at, paused_by, note FROM paused
    UNION ALL
    SELECT slot, paused_at, paused_by, note FROM standing WHERE NOT EXISTS (SELECT FROM paused)
)
SELECT to_char(paused_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS paused_at, paused_by,
       note, EXISTS (SELECT FROM standing) AS was_paused,
       pg_notify('pgoutbox_parked', slot::text)::text AS told
  FROM told;
