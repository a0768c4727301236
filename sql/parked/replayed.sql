-- Notes on discarded and dead-lettered events that they were replayed after all. The record
-- stays: who gave them up is part of the story.
--   psql -v seqs='{7,8}' -f parked/replayed.sql
UPDATE pgoutbox.parked
   SET note = concat_ws('; ', note, format('replayed by %s at %s', session_user,
                                            to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
 WHERE seq = ANY (:'seqs'::bigint[]) AND state IN ('dead_lettered', 'discarded');
