-- One batch of pruning where audit.mode is update: rows marked long ago, in a range of blocks,
-- so that no statement reads what another has read. Rows that somebody has locked, and events
-- that are parked, are left. One row: how many went, and the last block that one was in.
--   $1 text: first tid, $2 text: tid to stop before, $3 bigint: most rows, $4 float8: age in seconds,
--   $5 text[]: tids that are passed over
WITH old AS MATERIALIZED (
    SELECT outbox.ctid AS place
      FROM ONLY :"schema".:"table" AS outbox
     WHERE outbox.ctid >= $1::text::tid AND outbox.ctid < $2::text::tid
       AND outbox.ctid <> ALL ($5::text[]::tid[])
       AND (:marked) AND :marked_at < now() - $4::float8 * interval '1 second'
       -- Not those that the publication's row filter keeps back: table/row_filter.sql.
       AND (:filter)
       AND NOT EXISTS (SELECT FROM pgoutbox.parked
                        WHERE parked.outbox = :'relation'::oid::regclass
                          AND parked.event_id = outbox.:"id"::text
                          AND parked.state IN ('parked', 'queued', 'failed'))
     LIMIT $3
       FOR UPDATE OF outbox SKIP LOCKED
), gone AS (
    DELETE FROM ONLY :"schema".:"table" AS outbox
     WHERE outbox.ctid = ANY (ARRAY(SELECT place FROM old))
    RETURNING outbox.ctid AS place
)
SELECT count(*) AS rows, coalesce(max((place::text::point)[0]), 0)::bigint AS last_block FROM gone;
