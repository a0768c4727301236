-- Gives parked events up, and keeps the record of it: who, when, and what they said. Where one
-- held its aggregate, the next of that aggregate is tried at once. A relay that runs hears of it.
--   psql -v seqs='{7,8}' -v note= -f parked_discard.sql
WITH discarded AS (
    UPDATE pgoutbox.parked
       SET state = 'discarded',
           next_attempt_at = NULL,
           changed_at = now(),
           changed_by = concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
           note = nullif(:'note', '')
     WHERE seq = ANY (:'seqs'::bigint[]) AND state IN ('parked', 'queued', 'failed')
    RETURNING slot, seq, outbox, aggregate_type, aggregate_id
), next AS (
    -- The first that is left of each aggregate, as it was before this statement.
    SELECT min(waiting.seq) AS seq
      FROM (SELECT DISTINCT slot, outbox, aggregate_type, aggregate_id FROM discarded) AS freed
      JOIN pgoutbox.parked AS waiting
        ON waiting.slot = freed.slot AND waiting.outbox = freed.outbox
       AND waiting.aggregate_type IS NOT DISTINCT FROM freed.aggregate_type
       AND waiting.aggregate_id IS NOT DISTINCT FROM freed.aggregate_id
       AND waiting.state IN ('parked', 'queued', 'failed')
       AND (waiting.is_holding OR waiting.state = 'queued')
       AND waiting.seq NOT IN (SELECT seq FROM discarded)
     GROUP BY freed.slot, freed.outbox, freed.aggregate_type, freed.aggregate_id
), freed AS (
    UPDATE pgoutbox.parked AS parked
       SET state = 'parked', next_attempt_at = now(), changed_at = now()
      FROM next
     WHERE parked.seq = next.seq AND parked.state = 'queued'
    RETURNING parked.seq
), told AS (
    SELECT pg_notify('pgoutbox_parked', slot::text) FROM (SELECT DISTINCT slot FROM discarded) AS slots
)
SELECT count(*) AS events, (SELECT count(*) FROM freed) AS freed,
       (SELECT count(*) FROM told) AS slots
  FROM discarded;
