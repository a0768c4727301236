-- Which event of an aggregate is the next behind a row, whether or not its time has come.
--   $1 name: slot, $2 text, $3 text: the aggregate, $4 bigint: seq; only what is behind it
SELECT queue.seq FROM pgoutbox.parked_queue($1, $2, $3) AS queue
 WHERE queue.seq > $4 ORDER BY queue.seq LIMIT 1;
