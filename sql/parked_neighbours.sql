-- Which events of its aggregate one waits behind, and how many wait behind it.
--   psql -v seq=7 -f parked_neighbours.sql
SELECT count(*) FILTER (WHERE other.seq > this.seq AND other.state = 'queued') AS behind,
       min(other.seq) FILTER (WHERE other.seq < this.seq) AS head
  FROM pgoutbox.parked AS this
  LEFT JOIN pgoutbox.parked AS other
         ON other.slot = this.slot AND other.outbox = this.outbox
        AND other.aggregate_type IS NOT DISTINCT FROM this.aggregate_type
        AND other.aggregate_id IS NOT DISTINCT FROM this.aggregate_id
        AND other.state IN ('parked', 'queued', 'failed')
        AND (other.is_holding OR other.state = 'queued')
 WHERE this.seq = :'seq'::bigint;
