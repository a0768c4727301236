-- Takes the next events of an aggregate, which are to be tried. From here on they are in flight: who
-- discards one is told so, and its record keeps what became of it. One that was discarded before is
-- not found. One row without a seq where the next one waits for its time or for an operator, or where
-- somebody has a lock on it (is_locked); no row where there is none.
-- Of all the first only, which was refused before; behind one that is done with several, so that an aggregate
-- that never rests leaves the parking sooner than it comes in: up to the first whose turn has not come, and
-- to so many bytes.
-- In a transaction that progress/still_ours.sql ends: where a later session owns the slot, nothing is taken.
--   $1 name: slot, $2 text, $3 text: the aggregate, $4 bigint: seq; only what is behind it,
--   $5 bigint[]: which are not to be tried now
WITH queue AS MATERIALIZED (
    SELECT queue.seq FROM pgoutbox.parked_queue($1, $2, $3) AS queue
     WHERE queue.seq > $4 ORDER BY queue.seq LIMIT 32 + 16
), first AS (
    SELECT queue.seq FROM queue ORDER BY queue.seq LIMIT CASE $4 WHEN 0 THEN 1 ELSE 32 END
), free AS MATERIALIZED (
    SELECT parked.seq, pg_column_size(parked.cells) AS bytes,
           parked.state IN ('parked', 'queued') AND coalesce(parked.next_attempt_at <= now(), true)
           AND parked.seq <> ALL ($5) AS is_due
      FROM pgoutbox.parked
     WHERE parked.seq IN (SELECT first.seq FROM first)
       FOR UPDATE SKIP LOCKED
), reached AS (
    SELECT first.seq,
           bool_and(coalesce(free.is_due, false)) OVER up_to_it AS is_due,
           coalesce(sum(free.bytes) OVER before_it, 0) < 131072 AS is_room
      FROM first
      LEFT JOIN free ON free.seq = first.seq
    WINDOW up_to_it AS (ORDER BY first.seq),
           before_it AS (ORDER BY first.seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), claimed AS (
    UPDATE pgoutbox.parked AS parked
       SET claimed_at = now()
      FROM reached
     WHERE parked.seq = reached.seq AND reached.is_due AND reached.is_room
    RETURNING parked.seq, parked.outbox::oid AS outbox, parked.prefix, parked.event_id, parked.aggregate_type,
              parked.aggregate_id, parked.commit_lsn, parked.index,
              (extract(epoch FROM parked.commit_time) * 1000000)::bigint - 946684800000000 AS commit_micros,
              parked.is_holding, parked.attempts, coalesce(parked.reason = 'closed', false) AS is_closed,
              parked.columns::text AS columns, parked.cells,
              parked.xid, coalesce(parked.shown_xid + 1, parked.xid_end) AS xid_end
)
SELECT claimed.*,
       (SELECT count(*) FROM queue) - (SELECT count(*) FROM claimed) < 16 AS is_tail,
       NOT EXISTS (SELECT FROM free WHERE free.seq = head.seq) AS is_locked
  FROM (SELECT min(queue.seq) AS seq FROM queue HAVING count(*) > 0) AS head
  LEFT JOIN claimed ON true
 ORDER BY claimed.seq;
