-- Keeps rows of the list whole that their id does not tell from others: a mark of one is a mark of
-- all, and moves them. In the transaction of the list, where they still are where they were seen. Of
-- every column the text, and no JSON of its own making: a type may have a cast to JSON that nothing reads
-- again (hstore has), and JSON itself would not come back as it was. By its number, which it keeps under another
-- name. texts: as table/texts.sql says it.
--   psql -v slot=pgoutbox -v schema=public -v table=outbox_messages -v relation=16389
--        -v texts='(1, $$id$$, 20, concat(outbox.id))' -f catch_up/keep.sql
UPDATE pgoutbox.catch_up_rows AS listed
   SET content = (SELECT json_agg(kept ORDER BY kept.attnum)
                    FROM (VALUES :texts) AS kept (attnum, name, type, text))
  FROM :"schema".:"table" AS outbox
 WHERE listed.slot = :'slot' AND listed.outbox = :'relation'::oid::regclass AND listed.is_shared
   AND outbox.tableoid = listed.leaf AND outbox.ctid = listed.place;
