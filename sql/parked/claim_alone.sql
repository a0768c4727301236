-- Takes events that no other waits for, which are to be tried: as parked/claim.sql does it. Those
-- that were discarded before are left out. One without a seq is as it was: somebody has a lock on it
-- (is_locked), or did something to it just now.
--   $1 name: slot, $2 bigint[]: seq
WITH wanted AS (
    SELECT parked.seq FROM pgoutbox.parked
     WHERE parked.slot = $1 AND parked.seq = ANY ($2) AND parked.state IN ('parked', 'queued')
       AND coalesce(parked.next_attempt_at <= now(), true)
), free AS (
    SELECT parked.seq FROM pgoutbox.parked
     WHERE parked.seq IN (SELECT wanted.seq FROM wanted)
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE pgoutbox.parked AS parked
       SET claimed_at = now()
      FROM free
     WHERE parked.seq = free.seq AND parked.state IN ('parked', 'queued')
       AND coalesce(parked.next_attempt_at <= now(), true)
    RETURNING parked.seq, parked.outbox::oid AS outbox, parked.prefix, parked.event_id, parked.aggregate_type,
              parked.aggregate_id, parked.commit_lsn, parked.index,
              (extract(epoch FROM parked.commit_time) * 1000000)::bigint - 946684800000000 AS commit_micros,
              parked.is_holding, parked.attempts, coalesce(parked.reason = 'closed', false) AS is_closed,
              parked.columns::text AS columns, parked.cells,
              parked.xid, coalesce(parked.shown_xid + 1, parked.xid_end) AS xid_end
)
SELECT claimed.*, NOT EXISTS (SELECT FROM free WHERE free.seq = wanted.seq) AS is_locked
  FROM wanted
  LEFT JOIN claimed ON claimed.seq = wanted.seq;
