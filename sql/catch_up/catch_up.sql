-- A catch-up under way: one row, or none. Row n of its list has its place just before the
-- stream of the new slot, with n as its number there.
--   psql -v slot=pgoutbox -f catch_up/catch_up.sql
SELECT catch_up.state, catch_up.why,
       catch_up.consistent_lsn::text AS consistent_lsn,
       coalesce(catch_up.total, 0) AS total,
       CASE WHEN progress.commit_lsn = catch_up.consistent_lsn - 1
            THEN least(progress.settled, catch_up.total)
            WHEN coalesce(progress.commit_lsn, progress.end_lsn) >= catch_up.consistent_lsn
            THEN catch_up.total
            ELSE 0 END AS done,
       to_char(catch_up.begun_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS begun_at
  FROM pgoutbox.catch_up AS catch_up
  LEFT JOIN pgoutbox.progress AS progress ON progress.slot = catch_up.slot
 WHERE catch_up.slot = :'slot';
