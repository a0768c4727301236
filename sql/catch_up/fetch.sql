-- The next rows of one table on the list, as the stream would show them. Those that are gone or
-- marked meanwhile are left out. Each is found where it stood; only those that have moved since are
-- looked for by their id, all of a chunk at once. So it works without an index on the id, slowly.
--   psql -v slot=pgoutbox -v from=0 -v to=500 -v bytes=8388608 -v schema=public
--        -v table=outbox_messages -v relation=16389 -v mode=update -v id=id -v id_schema=pg_catalog
--        -v id_type=uuid -v payload=payload -v marked='outbox.relayed_at IS NOT NULL' -v occurred_at=occurred_at
--        -v time=timestamptz -1 -f catch_up/fetch.sql
-- One message, and so one transaction, without BEGIN: where it fails, the connection, which marks are
-- written on too, is not left within a transaction.
SET TRANSACTION READ ONLY;
SET LOCAL datestyle = ISO;
SET LOCAL timezone = 'UTC';
SET LOCAL intervalstyle = iso_8601;
SET LOCAL bytea_output = hex;
SET LOCAL extra_float_digits = 1;
WITH listed AS MATERIALIZED (
    SELECT n, id, leaf, place, xid, is_shared, content FROM pgoutbox.catch_up_rows
     WHERE slot = :'slot' AND n >= :'from'::bigint AND n < :'to'::bigint
       AND outbox = :'relation'::oid::regclass
), unmoved AS MATERIALIZED (
    SELECT listed.n AS pgoutbox_n, listed.xid AS pgoutbox_xid, pgoutbox_event AS pgoutbox_row
      FROM listed
      JOIN :"schema".:"table" AS pgoutbox_event
        ON pgoutbox_event.ctid = listed.place AND pgoutbox_event.tableoid = listed.leaf AND pgoutbox_event.:"id"::text = listed.id
     WHERE NOT listed.is_shared
), moved AS (
    SELECT DISTINCT ON (listed.n) listed.n, listed.xid, pgoutbox_event
      FROM listed
      JOIN :"schema".:"table" AS pgoutbox_event ON pgoutbox_event.:"id":::"id_schema".:"id_type" = listed.id:::"id_schema".:"id_type"
     WHERE NOT listed.is_shared
       AND NOT EXISTS (SELECT FROM unmoved WHERE unmoved.pgoutbox_n = listed.n)
), found AS (
    SELECT * FROM unmoved
    UNION ALL
    SELECT * FROM moved
    UNION ALL
    -- These are kept whole: see catch_up/keep.sql.
    SELECT listed.n, listed.xid, NULL:::"schema".:"table"
      FROM listed WHERE listed.is_shared AND listed.content IS NOT NULL
), kept AS MATERIALIZED (
    -- A column has the name of today, and the type of then. Those that are gone come last, as they were: their name
    -- may be another's by now.
    SELECT listed.n,
           json_agg(json_build_object('name', coalesce(column_of.attname, kept.name), 'is_there', column_of.attname IS NOT NULL,
                                      'type', kept.type, 'text', kept.text)
                    ORDER BY column_of.attname IS NULL, kept.attnum) AS content,
           max(kept.text) FILTER (WHERE column_of.attname = :'occurred_at'
                                    AND coalesce(kept.type = to_regtype(:'time')::oid::bigint, true)) AS occurred_at
      FROM listed
     CROSS JOIN LATERAL json_to_recordset(CASE WHEN json_typeof(listed.content) = 'array' THEN listed.content END)
                        AS kept (attnum integer, name text, type bigint, text text)
      LEFT JOIN pg_attribute AS column_of
             ON column_of.attrelid = :'relation'::oid AND column_of.attnum = kept.attnum AND NOT column_of.attisdropped
     GROUP BY listed.n
), waiting AS (
    SELECT found.*, coalesce(kept.content, listed.content) AS pgoutbox_content,
           coalesce(pg_column_size((found.pgoutbox_row).:"payload"), pg_column_size(listed.content), 0) AS pgoutbox_bytes,
           coalesce(
               -- Of the transaction that wrote it, before anybody updated it.
               CASE WHEN current_setting('track_commit_timestamp')::boolean
                    THEN pg_xact_commit_timestamp(found.pgoutbox_xid::text::xid) END,
               CASE :'time'
                    WHEN 'timestamptz' THEN said.occurred_at::timestamptz
                    WHEN 'timestamp' THEN said.occurred_at::timestamp AT TIME ZONE 'UTC'
                    -- Its size gives the unit: seconds, milliseconds, microseconds, nanoseconds.
                    WHEN 'bigint' THEN to_timestamp(said.occurred_at::float8
                                                    / CASE WHEN said.occurred_at::numeric < 0 THEN NULL
                                                           WHEN said.occurred_at::numeric < 1e11 THEN 1
                                                           WHEN said.occurred_at::numeric < 1e14 THEN 1e3
                                                           WHEN said.occurred_at::numeric < 1e17 THEN 1e6 ELSE 1e9 END)
               END,
               (SELECT begun_at FROM pgoutbox.catch_up WHERE slot = :'slot')) AS pgoutbox_time
      FROM found
      JOIN listed ON listed.n = found.pgoutbox_n
      LEFT JOIN kept ON kept.n = found.pgoutbox_n
     CROSS JOIN LATERAL (SELECT (found.pgoutbox_row).*) AS outbox
     CROSS JOIN LATERAL (SELECT coalesce((found.pgoutbox_row).:"occurred_at"::text,
                                         kept.occurred_at,
                                         -- Of a list that an earlier version made.
                                         listed.content -> 'texts' ->> :'occurred_at',
                                         listed.content ->> :'occurred_at') AS occurred_at) AS said
     WHERE listed.is_shared
        OR (:'mode' <> 'update' OR NOT (:marked))
           AND (:'mode' <> 'side_table'
                OR NOT EXISTS (SELECT FROM pgoutbox.relayed AS mark
                                WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = listed.id
                                  AND pgoutbox.is_mark_of(mark, listed.xid::text::xid,
                                      CASE WHEN :'time' <> 'none' THEN coalesce((found.pgoutbox_row).:"occurred_at"::text, '') END)))
)
SELECT chunk.pgoutbox_n, chunk.pgoutbox_last_n, chunk.pgoutbox_bytes_before, chunk.pgoutbox_commit_time,
       chunk.pgoutbox_xid, chunk.pgoutbox_content, (chunk.pgoutbox_row).*
  FROM (SELECT waiting.*,
               max(waiting.pgoutbox_n) OVER () AS pgoutbox_last_n,
               sum(waiting.pgoutbox_bytes) OVER (ORDER BY waiting.pgoutbox_n) - waiting.pgoutbox_bytes AS pgoutbox_bytes_before,
               -- In microseconds since 2000; of a time that says nothing, that of the list.
               (extract(epoch FROM CASE WHEN waiting.pgoutbox_time BETWEEN '1970-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'
                                        THEN waiting.pgoutbox_time
                                        ELSE (SELECT begun_at FROM pgoutbox.catch_up WHERE slot = :'slot') END)
                * 1000000)::bigint - 946684800000000 AS pgoutbox_commit_time
          FROM waiting) AS chunk
 WHERE chunk.pgoutbox_bytes_before < :'bytes'::bigint
 ORDER BY chunk.pgoutbox_n;
