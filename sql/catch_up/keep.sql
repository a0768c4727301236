-- Keeps rows of the list whole that their id does not tell from others: a mark of one is a mark of
-- all, and moves them. In the transaction of the list, where they still are where they were seen.
--   psql -v slot=pgoutbox -v schema=public -v table=outbox_messages -v relation=16389 -f catch_up/keep.sql
UPDATE pgoutbox.catch_up_rows AS listed
   SET content = row_to_json(pgoutbox_event)
  FROM :"schema".:"table" AS pgoutbox_event
 WHERE listed.slot = :'slot' AND listed.outbox = :'relation'::oid::regclass AND listed.is_shared
   AND pgoutbox_event.tableoid = listed.leaf AND pgoutbox_event.ctid = listed.place;
