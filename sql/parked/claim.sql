-- Takes the next event of an aggregate, which is to be tried. From here on it is in flight: who
-- discards it is told so, and its record keeps what became of it. One that was discarded before is
-- not found. One row without a seq where the next one waits for its time or for an operator, or where
-- somebody has a lock on it (is_locked); no row where there is none.
-- In a transaction that progress/still_ours.sql ends: where a later session owns the slot, nothing is taken.
--   $1 name: slot, $2 text, $3 text: the aggregate, $4 bigint: seq; only what is behind it,
--   $5 bigint[]: which are not to be tried now
WITH head AS (
    SELECT queue.seq FROM pgoutbox.parked_queue($1, $2, $3) AS queue
     WHERE queue.seq > $4 ORDER BY queue.seq LIMIT 1
), free AS (
    SELECT parked.seq FROM pgoutbox.parked
     WHERE parked.seq = (SELECT head.seq FROM head)
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE pgoutbox.parked AS parked
       SET claimed_at = now()
      FROM free
     WHERE parked.seq = free.seq AND parked.state IN ('parked', 'queued')
       AND coalesce(parked.next_attempt_at <= now(), true) AND parked.seq <> ALL ($5)
    RETURNING parked.seq, parked.outbox::oid AS outbox, parked.prefix, parked.event_id, parked.aggregate_type,
              parked.aggregate_id, parked.commit_lsn, parked.index,
              (extract(epoch FROM parked.commit_time) * 1000000)::bigint - 946684800000000 AS commit_micros,
              parked.is_holding, parked.attempts, coalesce(parked.reason = 'closed', false) AS is_closed,
              parked.columns::text AS columns, parked.cells,
              parked.xid, coalesce(parked.shown_xid + 1, parked.xid_end) AS xid_end
)
SELECT claimed.*,
       (SELECT count(*) FROM (SELECT FROM pgoutbox.parked_queue($1, $2, $3) AS queue
                               WHERE queue.seq > head.seq LIMIT 16) AS behind) < 16 AS is_tail,
       NOT EXISTS (SELECT FROM free) AS is_locked
  FROM head
  LEFT JOIN claimed ON true;
