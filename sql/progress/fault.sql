-- Says what keeps events from being delivered, for `pgoutbox status`. It stands until something is
-- delivered, and its time is that of the first failure, also from before a restart. Nothing is
-- written where another walsender than ours has the slot: then the row is about the other relay.
--   $1 name: slot, $2 text: fault as JSON, $3 float8: seconds that it has lasted,
--   $4 integer: pid of our walsender
INSERT INTO pgoutbox.progress AS progress
       (slot, system_identifier, timeline, end_lsn, fault, fault_at)
SELECT $1, '', 0, '0/0', $2::text::jsonb, now() - $3::float8 * interval '1 second'
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots AS slot
                    WHERE slot.slot_name = $1
                      AND slot.active_pid IS NOT NULL
                      AND slot.active_pid IS DISTINCT FROM $4::integer)
ON CONFLICT (slot) DO UPDATE
   SET fault = excluded.fault,
       fault_at = CASE WHEN progress.fault IS NULL THEN excluded.fault_at
                       ELSE LEAST(progress.fault_at, excluded.fault_at) END
 WHERE progress.fault IS DISTINCT FROM excluded.fault;
