-- Whether a partition holds rows that wait and that were written before it was attached, by the transaction
-- "xid" at its command "command". "waiting" is catch_up/waiting.sql of the partition.
SELECT EXISTS (SELECT FROM waiting
                WHERE leaf IN (SELECT relid FROM pg_partition_tree(:'part'::oid))
                  AND (waiting.xid = :'xid'::bigint AND waiting.command < :'command'::bigint
                       OR waiting.xid <> :'xid'::bigint
                          AND (waiting.xid - :'xid'::bigint + 8589934592) % 4294967296 >= 2147483648)) AS is_waiting;
