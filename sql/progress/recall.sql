-- A session begins: what is known of the slot's progress, and since when nothing is delivered.
-- An update, in a transaction that waits for the disk, and not a look: a row that is visible may
-- still be lost in a crash of the server (marks and parked events are written with
-- synchronous_commit = off), and then the relay would remember as settled what is parked
-- nowhere. Its commit comes after that of the row. From here on the row is this session's: what an
-- earlier one has under way is either committed, and seen by what follows, or refused.
--   BEGIN; SET LOCAL synchronous_commit = local;
--   psql -v slot=pgoutbox -v session=00000000-0000-4000-8000-000000000000 -f progress/recall.sql
--   COMMIT;
UPDATE pgoutbox.progress
   SET session = :'session'::uuid
 WHERE slot = :'slot'
RETURNING system_identifier, timeline, end_lsn::text AS end_lsn, commit_lsn::text AS commit_lsn,
          settled, change_lsn::text AS change_lsn, change_number, fault::text AS fault,
          extract(epoch FROM now() - coalesce(fault_at, now()))::float8 AS fault_seconds,
          (to_jsonb(progress) ->> 'coverage')::bigint AS coverage,
          coalesce((to_jsonb(progress) ->> 'messages')::boolean, false) AS has_messages,
          publishing_id, routes::text AS routes, readings::text AS readings,
          to_jsonb(progress) ->> 'former' AS former;
