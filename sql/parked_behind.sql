-- What waits behind a parked event of an aggregate, in order: likewise.
--   $1 name: slot, $2 text, $3 text: the aggregate, $4 bigint: seq
SELECT seq, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_micros,
       is_holding, attempts, is_closed, columns, cells
  FROM (SELECT seq, outbox::oid AS outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index,
               (extract(epoch FROM commit_time) * 1000000)::bigint - 946684800000000 AS commit_micros,
               is_holding, attempts, coalesce(reason = 'closed', false) AS is_closed,
               columns::text AS columns, cells, pg_column_size(cells) AS size,
               sum(pg_column_size(cells)) OVER (ORDER BY seq) AS size_until
          FROM (SELECT * FROM pgoutbox.parked
                 WHERE slot = $1 AND hashtextextended(aggregate_id, 0) = hashtextextended($3, 0)
                   AND aggregate_id = $3 AND aggregate_type IS NOT DISTINCT FROM $2
                   AND seq > $4 AND state = 'queued'
                 ORDER BY seq LIMIT 64) AS first) AS sized
 WHERE size_until - size < 8388608
 ORDER BY seq;
