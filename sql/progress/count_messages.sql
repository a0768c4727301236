-- A session counts the changes of a transaction otherwise than before: messages too, or no longer, or those of another
-- publication; or the server shows others of them. A place in the middle of a transaction becomes its beginning: some of its events come again, none is
-- left out. They come under other publishing ids, so a stream has to know them by another name: under this one it would
-- drop those whose ids others had. Those of them that are put aside have another number now: 2^40 is added to it, and
-- they are known by commit and id. Where the same changes are asked for (keeps), what was settled is still known by where it is in the WAL, and
-- comes no second time.
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -v messages=true -v keeps=false -f progress/count_messages.sql
WITH counted AS (
    UPDATE pgoutbox.progress
       SET messages = :'messages'::boolean, settled = 0, publishing_epoch = NULL,
           readings = CASE WHEN :'keeps'::boolean THEN readings END,
           change_lsn = CASE WHEN :'keeps'::boolean THEN change_lsn END
     WHERE slot = :'slot' AND session = :'session'::uuid
       AND set_config('synchronous_commit', 'local', true) = 'local'
    RETURNING slot, coalesce(commit_lsn, end_lsn) AS place
)
UPDATE pgoutbox.parked AS parked
   SET index = parked.index + 1099511627776
  FROM counted
 WHERE parked.slot = counted.slot AND parked.commit_lsn >= counted.place;
