-- A session begins: what is known of the slot's progress, and what kept the relay from running
-- is over. An event that it is stuck on is not over before it is passed.
-- An update, in a transaction that waits for the disk, and not a look: a row that is visible may
-- still be lost in a crash of the server (marks and parked events are written with
-- synchronous_commit = off), and then the relay would remember as settled what is parked
-- nowhere. Its commit comes after that of the row.
--   BEGIN; SET LOCAL synchronous_commit = local;
--   psql -v slot=pgoutbox -f recall_progress.sql
--   COMMIT;
UPDATE pgoutbox.progress
   SET fault = CASE WHEN fault ->> 'class' = 'event' THEN fault END,
       fault_at = CASE WHEN fault ->> 'class' = 'event' THEN fault_at END
 WHERE slot = :'slot'
RETURNING system_identifier, timeline, end_lsn::text AS end_lsn, commit_lsn::text AS commit_lsn,
          settled;
