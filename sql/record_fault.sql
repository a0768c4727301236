-- Says what the relay waits for or is stuck on, for `pgoutbox status`. NULL: all is well.
--   $1 name: slot, $2 text: system identifier, $3 integer: timeline, $4 text: fault as JSON
INSERT INTO pgoutbox.progress AS progress
       (slot, system_identifier, timeline, end_lsn, fault, fault_at)
VALUES ($1, $2, $3, '0/0', $4::text::jsonb, now())
ON CONFLICT (slot) DO UPDATE
   SET fault = excluded.fault,
       -- Since when: the same fault keeps its time.
       fault_at = CASE WHEN progress.fault ->> 'what' IS NOT DISTINCT FROM excluded.fault ->> 'what'
                       THEN progress.fault_at ELSE excluded.fault_at END
 WHERE progress.fault IS DISTINCT FROM excluded.fault;
