-- Writes how far the events are settled, in the transaction of their marks. Never backwards
-- on the same server and timeline. Where a later session owns the slot, an error takes the whole
-- transaction back: the later one has looked at what is parked, and does not look for more. Likewise where
-- the row that the session found is gone: somebody dropped the schema, and what was parked went with it. One that only
-- says a fault, and that a session made since, is not that row.
-- The fault goes once the relay has passed the event that it was stuck on.
--   $1 name: slot, $2 text: system identifier, $3 integer: timeline, $4 pg_lsn: place,
--   $5 bigint: events settled of the transaction whose commit record starts there,
--   $6 text: session; null where it is written outside one,
--   $7 bigint: publishing id of the last event before the place,
--   $8 bigint: the highest one that a stream has confirmed under the name,
--   $9 pg_lsn: where in the WAL the first change of that transaction is that is not settled; null where that is not known,
--   $10 integer: its number among the rows of its record
INSERT INTO pgoutbox.progress AS progress
       (slot, system_identifier, timeline, end_lsn, commit_lsn, settled, session, publishing_id, confirmed_id,
        change_lsn, change_number, updated_at)
SELECT $1, $2, $3, $4::pg_lsn, CASE WHEN $5::bigint > 0 THEN $4::pg_lsn END, $5::bigint, $6::text::uuid, $7::bigint, $8::bigint,
       $9::pg_lsn, $10::integer, now()
 WHERE CASE WHEN $6::text IS NULL OR EXISTS (SELECT FROM pgoutbox.progress WHERE slot = $1) THEN true
            ELSE pgoutbox.taken_over($1) END
ON CONFLICT (slot) DO UPDATE
   SET system_identifier = excluded.system_identifier,
       timeline = excluded.timeline,
       end_lsn = CASE WHEN excluded.settled = 0 THEN excluded.end_lsn ELSE progress.end_lsn END,
       commit_lsn = excluded.commit_lsn,
       settled = excluded.settled,
       change_lsn = excluded.change_lsn,
       change_number = excluded.change_number,
       session = coalesce(excluded.session, progress.session),
       publishing_id = excluded.publishing_id,
       confirmed_id = greatest(progress.confirmed_id, excluded.confirmed_id),
       -- Outside a session nobody knows which ids were used.
       publishing_epoch = CASE WHEN excluded.session IS NOT NULL THEN progress.publishing_epoch END,
       updated_at = excluded.updated_at,
       fault = CASE WHEN (progress.fault ->> 'commit_lsn')::pg_lsn >= excluded.end_lsn
                    THEN progress.fault END,
       fault_at = CASE WHEN (progress.fault ->> 'commit_lsn')::pg_lsn >= excluded.end_lsn
                       THEN progress.fault_at END
 WHERE CASE WHEN excluded.session IS NOT NULL AND progress.session IS DISTINCT FROM excluded.session THEN pgoutbox.taken_over(progress.slot)
            ELSE (progress.system_identifier, progress.timeline)
                 IS DISTINCT FROM (excluded.system_identifier, excluded.timeline)
              OR (coalesce(excluded.commit_lsn, excluded.end_lsn), excluded.settled)
                 >= (coalesce(progress.commit_lsn, progress.end_lsn), progress.settled) END;
