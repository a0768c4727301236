-- Parked events whose time has come, the oldest first: as many as make 8 MB, and one at least.
--   $1 name: slot
SELECT seq, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_micros,
       is_holding, attempts, is_closed, columns, cells
  FROM (SELECT seq, outbox::oid AS outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index,
               (extract(epoch FROM commit_time) * 1000000)::bigint - 946684800000000 AS commit_micros,
               is_holding, attempts, coalesce(reason = 'closed', false) AS is_closed,
               columns::text AS columns, cells, pg_column_size(cells) AS size,
               sum(pg_column_size(cells)) OVER (ORDER BY seq) AS size_until
          FROM (SELECT * FROM pgoutbox.parked
                 WHERE slot = $1 AND state = 'parked' AND next_attempt_at <= now()
                 ORDER BY seq LIMIT 64) AS first) AS sized
 WHERE size_until - size < 8388608
 ORDER BY seq;
