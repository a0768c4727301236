-- Has parked and failed events tried again at once. One that waits behind another of its
-- aggregate is left alone: it would overtake. A relay that runs hears of it.
--   psql -v slot=pgoutbox -v seqs='{7,8}' -v reset_attempts=false -v note= -f parked/retry.sql
WITH retried AS (
    UPDATE pgoutbox.parked AS parked
       SET state = 'parked',
           next_attempt_at = now(),
           attempts = CASE WHEN :'reset_attempts'::boolean THEN 0 ELSE parked.attempts END,
           changed_at = now(),
           changed_by = concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
           note = nullif(:'note', '')
      FROM pgoutbox.parked_places(:'slot') AS place
     WHERE place.seq = parked.seq AND place.head = parked.seq
       AND parked.slot = :'slot' AND parked.seq = ANY (:'seqs'::bigint[])
       AND parked.state IN ('parked', 'queued', 'failed')
    RETURNING parked.slot, parked.seq
), told AS (
    SELECT pg_notify('pgoutbox_parked', slot::text) FROM (SELECT DISTINCT slot FROM retried) AS slots
)
SELECT count(*) AS events, (SELECT count(*) FROM told) AS slots FROM retried;
