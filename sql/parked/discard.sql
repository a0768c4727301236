-- Gives parked events up, and keeps the record of it: who, when, and what they said. None of them is
-- published any more, save those that are in flight: what becomes of these is noted in their
-- records. Where one was the first of its aggregate, the next follows. A relay that runs hears of it.
--   psql -v slot=pgoutbox -v seqs='{7,8}' -v note= -f parked/discard.sql
WITH discarded AS (
    UPDATE pgoutbox.parked
       SET state = 'discarded',
           next_attempt_at = NULL,
           changed_at = now(),
           changed_by = concat_ws(' from ', session_user, coalesce(host(inet_client_addr()), 'a local socket')),
           note = nullif(:'note', '')
     WHERE slot = :'slot' AND seq = ANY (:'seqs'::bigint[]) AND state IN ('parked', 'queued', 'failed')
    RETURNING slot, seq, aggregate_type, aggregate_id, claimed_at
), freed AS (
    -- Whose first event was among them, and of which there is another; as it was before this
    -- statement.
    SELECT DISTINCT discarded.slot, discarded.aggregate_type, discarded.aggregate_id
      FROM discarded
      JOIN pgoutbox.parked_places(:'slot') AS place ON place.seq = discarded.seq
     WHERE place.head = place.seq AND place.is_holding
       AND EXISTS (SELECT FROM pgoutbox.parked_queue(discarded.slot, discarded.aggregate_type, discarded.aggregate_id) AS queue
                    WHERE queue.seq NOT IN (SELECT seq FROM discarded))
), told AS (
    SELECT pg_notify('pgoutbox_parked', slot::text) FROM (SELECT DISTINCT slot FROM discarded) AS slots
)
SELECT count(*) AS events, (SELECT count(*) FROM freed) AS freed,
       count(claimed_at) AS in_flight,
       (SELECT count(*) FROM told) AS slots
  FROM discarded;
