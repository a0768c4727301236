-- The next rows of one table on the list, as the stream would show them. Those that are gone or
-- marked meanwhile are left out. Each is found by its id; the whole table is never read.
--   psql -v slot=pgoutbox -v from=0 -v to=500 -v bytes=8388608 -v schema=public
--        -v table=outbox_messages -v relation=16389 -v mode=update -v id=id -v id_schema=pg_catalog
--        -v id_type=uuid -v payload=payload -v relayed_at=relayed_at -v occurred_at=occurred_at
--        -v time=timestamptz -f catch_up_fetch.sql
BEGIN READ ONLY;
SET LOCAL datestyle = ISO;
SET LOCAL timezone = 'UTC';
SET LOCAL intervalstyle = iso_8601;
SET LOCAL bytea_output = hex;
SET LOCAL extra_float_digits = 1;
WITH listed AS MATERIALIZED (
    SELECT n, id FROM pgoutbox.catch_up_rows
     WHERE slot = :'slot' AND n >= :'from'::bigint AND n < :'to'::bigint
       AND outbox = :'relation'::oid::regclass
)
SELECT chunk.*
  FROM (SELECT listed.n AS pgoutbox_n,
               max(listed.n) OVER () AS pgoutbox_last_n,
               sum(event.pgoutbox_bytes) OVER (ORDER BY listed.n) - event.pgoutbox_bytes AS pgoutbox_bytes_before,
               -- In microseconds since 2000; 0 where nothing is known.
               CASE WHEN isfinite(event.pgoutbox_time)
                    THEN (extract(epoch FROM event.pgoutbox_time) * 1000000)::bigint - 946684800000000
                    ELSE 0 END AS pgoutbox_commit_time,
               event.*
          FROM listed
         CROSS JOIN LATERAL (
               SELECT coalesce(pg_column_size(outbox.:"payload"), 0) AS pgoutbox_bytes,
                      coalesce(
                          CASE WHEN current_setting('track_commit_timestamp')::boolean
                               THEN pg_xact_commit_timestamp(outbox.xmin) END,
                          CASE :'time'
                               WHEN 'timestamptz' THEN outbox.:"occurred_at"::text::timestamptz
                               WHEN 'timestamp' THEN outbox.:"occurred_at"::text::timestamp AT TIME ZONE 'UTC'
                               WHEN 'bigint' THEN to_timestamp(outbox.:"occurred_at"::text::float8 / 1000)
                          END,
                          (SELECT begun_at FROM pgoutbox.catch_up WHERE slot = :'slot')) AS pgoutbox_time,
                      outbox.xmin::text AS pgoutbox_xid,
                      outbox.*
                 FROM :"schema".:"table" AS outbox
                WHERE outbox.:"id" = listed.id:::"id_schema".:"id_type"
                  AND (:'mode' <> 'update' OR outbox.:"relayed_at" IS NULL)
                  AND (:'mode' <> 'side_table'
                       OR NOT EXISTS (SELECT FROM pgoutbox.relayed AS relayed
                                       WHERE relayed.outbox = :'relation'::oid::regclass
                                         AND relayed.id = listed.id))
                LIMIT 1) AS event
       ) AS chunk
 WHERE chunk.pgoutbox_bytes_before < :'bytes'::bigint
 ORDER BY chunk.pgoutbox_n;
COMMIT;
