-- Gives parked events to the slots that have the shares of their aggregates. Events of a table without a column of the
-- aggregate's id (its oid is among "without") are spread by their own.
--   psql -v from='["pgoutbox"]' -v slots='["pgoutbox_0of2", "pgoutbox_1of2"]' -v without='[]' -f shards/move_parked.sql
UPDATE pgoutbox.parked AS parked
   SET claimed_at = NULL,
       slot = ((:'slots'::jsonb) ->> ((hashtextextended(
                  coalesce(CASE WHEN (:'without'::jsonb) @> to_jsonb(parked.outbox::oid::bigint) THEN parked.event_id
                                ELSE parked.aggregate_id END, '') COLLATE "C", 0) & 9223372036854775807)
              % jsonb_array_length(:'slots'::jsonb))::integer)::name
 WHERE (:'from'::jsonb) ? parked.slot::text;
