-- Says that everything before an LSN is settled where nothing else is written, before it is
-- acknowledged: waits for the disk, by itself. So a slot that stands further on than its row was
-- moved by somebody else. Never backwards on the same server and timeline; an error where a later
-- session owns the slot, or the row is gone that this one found when it began.
--   psql -v slot=pgoutbox -v system=7400000000000000000 -v timeline=1 -v lsn=0/16B3748 \
--        -v publishing_id=2097152 -v confirmed_id=2097152 -v session=00000000-0000-4000-8000-000000000000 -v begins=true -f progress/reach.sql
INSERT INTO pgoutbox.progress AS progress (slot, system_identifier, timeline, end_lsn, session, publishing_id, confirmed_id, updated_at)
SELECT :'slot', :'system', :'timeline'::integer, :'lsn'::pg_lsn, :'session'::uuid, :'publishing_id'::bigint, :'confirmed_id'::bigint, now()
 WHERE set_config('synchronous_commit', 'local', true) = 'local'
   AND CASE WHEN :'begins'::boolean OR EXISTS (SELECT FROM pgoutbox.progress WHERE slot = :'slot') THEN true
            ELSE pgoutbox.taken_over(:'slot') END
ON CONFLICT (slot) DO UPDATE
   SET system_identifier = excluded.system_identifier,
       timeline = excluded.timeline,
       end_lsn = excluded.end_lsn,
       commit_lsn = NULL,
       settled = 0,
       change_lsn = NULL,
       change_number = NULL,
       session = excluded.session,
       publishing_id = excluded.publishing_id,
       confirmed_id = greatest(progress.confirmed_id, excluded.confirmed_id),
       updated_at = excluded.updated_at
 WHERE CASE WHEN NOT :'begins'::boolean AND progress.session IS DISTINCT FROM excluded.session
                 OR progress.session <> excluded.session THEN pgoutbox.taken_over(progress.slot)
            ELSE (progress.system_identifier, progress.timeline)
                 IS DISTINCT FROM (excluded.system_identifier, excluded.timeline)
              OR excluded.end_lsn > coalesce(progress.commit_lsn, progress.end_lsn) END;
