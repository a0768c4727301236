-- A relay begins: what an earlier one had taken and not settled is open again. Of what was
-- discarded meanwhile nobody knows whether it was published. A row that somebody has a lock on is left:
-- that it was taken hinders nobody.
--   $1 name: slot
UPDATE pgoutbox.parked
   SET claimed_at = NULL,
       note = CASE WHEN state IN ('parked', 'queued', 'failed') THEN note
                   ELSE concat_ws('; ', note, 'it was in flight then, and may have been delivered: the relay ended before it knew') END
 WHERE seq IN (SELECT seq FROM pgoutbox.parked
                WHERE slot = $1 AND claimed_at IS NOT NULL
                  FOR UPDATE SKIP LOCKED);
