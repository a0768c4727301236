-- Rows that wait by the mode of their table's marks, and that another mode has marked: in themselves, or in
-- pgoutbox.relayed. The mode was changed, and their marks were not moved. Not counted beyond a million.
--   psql -v schema=public -v table=outbox_messages -v relation=16389 -v mode=side_table -v id=id
--        -v occurred_at=occurred_at -v time=timestamptz -v filter=true -v marked=false
--        -v in_row='outbox.relayed_at IS NOT NULL' -f check/former_marks.sql
SELECT count(*) FILTER (WHERE former.is_in_row) AS in_rows, count(*) FILTER (WHERE NOT former.is_in_row) AS beside
  FROM (SELECT (:in_row) AS is_in_row
          FROM :"schema".:"table" AS outbox
         CROSS JOIN LATERAL (
               SELECT EXISTS (SELECT FROM pgoutbox.relayed AS mark
                               WHERE mark.outbox = :'relation'::oid::regclass AND mark.id = outbox.:"id"::text
                                 AND pgoutbox.is_mark_of(mark, outbox.xmin,
                                     CASE WHEN :'time' <> 'none' THEN coalesce(outbox.:"occurred_at"::text, '') END)) AS is_there) AS beside
         WHERE (:filter)
           AND CASE :'mode'
               WHEN 'update' THEN NOT (:marked) AND beside.is_there
               WHEN 'side_table' THEN (:in_row) AND NOT beside.is_there
               WHEN 'delete' THEN (:in_row) OR beside.is_there
               ELSE false END
         LIMIT 1000000) AS former;
