-- Events that left the parking delivered, and whose marks are not known to be written.
--   $1 name: slot, $2 bigint[]: which are passed over
SELECT seq, outbox::oid AS outbox, event_id, xid, coalesce(shown_xid + 1, xid_end) AS xid_end, occurred_at
  FROM pgoutbox.parked
 WHERE slot = $1 AND state = 'delivered' AND seq <> ALL ($2)
 ORDER BY seq LIMIT 500;
