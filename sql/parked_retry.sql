-- Has parked and failed events tried again at once. One that waits behind another of its
-- aggregate is left alone: it would overtake. A relay that runs hears of it.
--   psql -v seqs='{7,8}' -v reset_attempts=false -v note= -f parked_retry.sql
WITH retried AS (
    UPDATE pgoutbox.parked
       SET state = 'parked',
           next_attempt_at = now(),
           attempts = CASE WHEN :'reset_attempts'::boolean THEN 0 ELSE attempts END,
           changed_at = now(),
           changed_by = concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
           note = nullif(:'note', '')
     WHERE seq = ANY (:'seqs'::bigint[]) AND state IN ('parked', 'failed')
    RETURNING slot, seq
), told AS (
    SELECT pg_notify('pgoutbox_parked', slot::text) FROM (SELECT DISTINCT slot FROM retried) AS slots
)
SELECT count(*) AS events, (SELECT count(*) FROM told) AS slots FROM retried;
