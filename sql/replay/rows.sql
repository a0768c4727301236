-- Rows to replay, in the order in which they are named here: found where they stood, or by their id
-- where they have moved since. Their columns' texts are taken as the server writes them out, not
-- cast to text: so the stream does it, and for char(n) and boolean the two differ.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v id=id -v id_schema=pg_catalog \
--        -v slot=pgoutbox -v time=timestamptz -v payload=payload -v topic=topic -v of_type=aggregate_type -v of_id=aggregate_id -v occurred_at=occurred_at -v id_type=uuid -v marked='outbox.relayed_at IS NOT NULL' \
--        -v mode=update -v only=all -v rows='[{"id": "...", "leaf": "16389", "place": "(0,1)", "is_shared": false}]' -f replay/rows.sql
WITH wanted AS MATERIALIZED (
    SELECT number, one ->> 'id' AS id, (one ->> 'leaf')::oid AS leaf, (one ->> 'place')::tid AS place,
           (one ->> 'is_shared')::boolean AS is_shared
      FROM jsonb_array_elements(:'rows'::jsonb) WITH ORDINALITY AS wanted (one, number)
), unmoved AS MATERIALIZED (
    SELECT wanted.number, pgoutbox_event.xmin AS written_by, pgoutbox_event AS pgoutbox_row
      FROM wanted
      JOIN :"schema".:"table" AS pgoutbox_event
        ON pgoutbox_event.ctid = wanted.place AND pgoutbox_event.tableoid = wanted.leaf
       AND pgoutbox_event.:"id"::text IS NOT DISTINCT FROM wanted.id
), moved AS (
    SELECT DISTINCT ON (wanted.number) wanted.number, pgoutbox_event.xmin, pgoutbox_event
      FROM wanted
      JOIN :"schema".:"table" AS pgoutbox_event ON pgoutbox_event.:"id":::"id_schema".:"id_type" = wanted.id:::"id_schema".:"id_type"
     WHERE NOT wanted.is_shared
       AND NOT EXISTS (SELECT FROM unmoved WHERE unmoved.number = wanted.number)
), found AS (
    SELECT * FROM unmoved UNION ALL SELECT * FROM moved
)
SELECT found.number AS pgoutbox_number, found.written_by AS pgoutbox_xmin, (found.pgoutbox_row).*
  FROM found
  JOIN wanted ON wanted.number = found.number
 CROSS JOIN LATERAL (SELECT (found.pgoutbox_row).*) AS outbox
 -- Looked at again: it may have been marked or parked since it was found. A mark of a shared id says
 -- nothing.
 WHERE :'only' <> 'unrelayed'
    OR wanted.is_shared
    OR NOT CASE :'mode'
           WHEN 'update' THEN (:marked)
           WHEN 'side_table' THEN EXISTS (SELECT FROM pgoutbox.relayed AS mark
                WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = wanted.id
                  AND pgoutbox.is_mark_of(mark, found.written_by,
                      CASE WHEN :'time' <> 'none' THEN coalesce((found.pgoutbox_row).:"occurred_at"::text, '') END))
           ELSE false END
       AND NOT EXISTS (SELECT FROM pgoutbox.parked AS parked
                        WHERE (parked.slot = :'slot' OR parked.state IN ('dead_lettered', 'discarded'))
                          AND parked.outbox = :'relation'::oid::regclass
                          AND coalesce(parked.event_id, '') = coalesce(wanted.id, '')
                          AND pgoutbox.is_record_of(parked, found.written_by,
                              CASE WHEN :'time' <> 'none' THEN (found.pgoutbox_row).:"occurred_at"::text END,
                              ARRAY[:'id', :'payload', :'topic', :'of_type', :'of_id'],
                              ARRAY[(found.pgoutbox_row).:"payload"::text, (found.pgoutbox_row).:"topic"::text, (found.pgoutbox_row).:"of_type"::text, (found.pgoutbox_row).:"of_id"::text]))
 ORDER BY found.number;
