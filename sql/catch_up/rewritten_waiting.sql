-- Whether a table holds rows that wait and that the transaction "xid" wrote up to its command "command"; how far the slot
-- is settled, and whether that is an LSN, where one is given. "waiting" is catch_up/waiting.sql of the table.
SELECT EXISTS (SELECT FROM waiting
                WHERE leaf = :'part'::oid AND waiting.xid = :'xid'::bigint AND waiting.command <= :'command'::bigint
                  -- What is on a list waits for nothing else.
                  AND NOT EXISTS (SELECT FROM pgoutbox.catch_up_rows AS listed
                                    JOIN pgoutbox.catch_up AS catch_up ON catch_up.slot = listed.slot AND catch_up.state = 'listed'
                                   WHERE listed.slot = :'slot' AND listed.outbox = waiting.outbox
                                     AND listed.id IS NOT DISTINCT FROM waiting.id)) AS is_waiting,
       concat_ws('/', progress.end_lsn, progress.commit_lsn, progress.settled) AS place,
       coalesce(coalesce(progress.commit_lsn, progress.end_lsn) >= nullif(:'lsn', '')::pg_lsn, false) AS is_passed,
       pg_current_wal_lsn()::text AS wal_lsn
  FROM (SELECT) AS one
  LEFT JOIN pgoutbox.progress AS progress ON progress.slot = :'slot';
