-- Whether a partition holds rows that wait and that were written before it was attached, by the transaction
-- "xid" at its command "command". "waiting" is catch_up/waiting.sql of the partition.
SELECT EXISTS (SELECT FROM waiting
                WHERE leaf IN (SELECT relid FROM pg_partition_tree(:'part'::oid))
                  -- What is on a list waits for nothing else.
                  AND NOT EXISTS (SELECT FROM pgoutbox.catch_up_rows AS listed
                                    JOIN pgoutbox.catch_up AS catch_up ON catch_up.slot = listed.slot AND catch_up.state = 'listed'
                                   WHERE listed.slot = :'slot' AND listed.outbox = waiting.outbox
                                     AND listed.id IS NOT DISTINCT FROM waiting.id)
                  AND (waiting.xid = :'xid'::bigint AND waiting.command < :'command'::bigint
                       OR waiting.xid <> :'xid'::bigint
                          AND (waiting.xid - :'xid'::bigint + 8589934592) % 4294967296 >= 2147483648)) AS is_waiting;
