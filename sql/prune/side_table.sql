-- One batch of pruning where audit.mode is side_table: marks made long ago, in a range of blocks
-- of pgoutbox.relayed, and the rows that they belong to. Marks that somebody has locked, and
-- events that are parked, are left. Rows in partitions that will be dropped whole are left to that:
-- `whole` lists those, as '{16390,16396}'.
-- One row: how many marks went, and the last block that one was in.
--   $1 text: first tid, $2 text: tid to stop before, $3 bigint: most rows, $4 float8: age in seconds,
--   $5 text[]: tids that are passed over
WITH old AS MATERIALIZED (
    SELECT relayed.ctid AS place, relayed.id, relayed AS mark
      FROM pgoutbox.relayed
     WHERE relayed.ctid >= $1::text::tid AND relayed.ctid < $2::text::tid
       AND relayed.ctid <> ALL ($5::text[]::tid[])
       AND relayed.outbox = :'relation'::oid::regclass
       AND relayed.relayed_at < now() - $4::float8 * interval '1 second'
       AND NOT EXISTS (SELECT FROM pgoutbox.parked
                        WHERE parked.outbox = relayed.outbox
                          AND parked.event_id = relayed.id
                          AND parked.state IN ('parked', 'queued', 'failed'))
       -- Not marks of those that the publication's row filter keeps back: table/row_filter.sql.
       AND NOT EXISTS (SELECT FROM :"schema".:"table" AS outbox
                        WHERE outbox.:"id":::"id_schema".:"id_type" = relayed.id:::"id_schema".:"id_type" AND NOT coalesce((:filter), false)
                          AND pgoutbox.is_mark_of(relayed, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END))
       AND (:'whole'::text = '{}'
            OR NOT EXISTS (SELECT FROM :"schema".:"table" AS outbox
                            WHERE outbox.:"id":::"id_schema".:"id_type" = relayed.id:::"id_schema".:"id_type"
                              AND outbox.tableoid = ANY (:'whole'::oid[])))
     LIMIT $3
       FOR UPDATE OF relayed SKIP LOCKED
), row_gone AS (
    DELETE FROM :"schema".:"table" AS outbox
     WHERE outbox.:"id":::"id_schema".:"id_type" = ANY (ARRAY(SELECT id FROM old):::"id_schema".:"id_type"[])
       -- Not a row that only has the id of such a mark.
       AND EXISTS (SELECT FROM old
                    WHERE old.id:::"id_schema".:"id_type" = outbox.:"id":::"id_schema".:"id_type"
                      AND pgoutbox.is_mark_of(old.mark, outbox.xmin, CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END))
), gone AS (
    DELETE FROM pgoutbox.relayed
     WHERE relayed.ctid = ANY (ARRAY(SELECT place FROM old))
    RETURNING relayed.ctid AS place
)
SELECT count(*) AS rows, coalesce(max((place::text::point)[0]), 0)::bigint AS last_block FROM gone;
