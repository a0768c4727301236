-- Parked events, the oldest first. A variable that is empty, [] or 0s asks for nothing.
--   psql -v slot=pgoutbox -v states='{parked,queued,failed}' -v ids='[]' -v seqs='{}' -v table= \
--        -v aggregate_types='[]' -v aggregate_ids='[]' -v reason= -v older_than=0s -v after=0 -v behind= -v text= -v limit=100 -f parked/list.sql
SELECT parked.seq, place.state, place.head, parked.is_holding, parked.reason, parked.last_error, coalesce(parked.hint, parked.mend) AS hint,
       CASE WHEN place.head = parked.seq AND parked.is_holding
            THEN (SELECT count(*)
                    FROM pgoutbox.parked_queue(parked.slot, parked.aggregate_type, parked.aggregate_id) AS queue
                   WHERE queue.seq > parked.seq)
            ELSE 0 END AS followers,
       coalesce('message:' || parked.prefix, format('%s.%s', namespace.nspname, relation.relname)) AS table,
       CASE WHEN parked.prefix IS NULL THEN namespace.nspname::text ELSE '' END AS table_schema,
       coalesce(parked.prefix, relation.relname::text) AS table_name,
       parked.event_id, parked.aggregate_type, parked.aggregate_id,
       parked.commit_lsn::text AS commit_lsn, parked.index,
       (extract(epoch FROM parked.commit_time - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint AS commit_micros,
       parked.attempts,
       extract(epoch FROM parked.next_attempt_at - now())::float8 AS next_in_seconds,
       to_char(parked.parked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS parked_at,
       extract(epoch FROM now() - parked.parked_at)::float8 AS age_seconds,
       to_char(parked.changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS changed_at,
       parked.changed_by, parked.note
  FROM pgoutbox.parked AS parked
  JOIN pgoutbox.parked_places(:'slot') AS place ON place.seq = parked.seq
  LEFT JOIN pg_class AS relation ON relation.oid = parked.outbox
  LEFT JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
 WHERE parked.slot = :'slot'
   AND place.state = ANY (:'states'::text[])
   AND (:'ids' = '[]' OR parked.event_id IN (SELECT jsonb_array_elements_text(:'ids'::jsonb)))
   AND (:'seqs' = '{}' OR parked.seq = ANY (:'seqs'::bigint[]))
   AND (:'table' = ''
        OR coalesce('message:' || parked.prefix, format('%s.%s', namespace.nspname, relation.relname)) = :'table')
   AND (:'aggregate_types' = '[]' OR parked.aggregate_type IN (SELECT jsonb_array_elements_text(:'aggregate_types'::jsonb)))
   AND (:'aggregate_ids' = '[]' OR parked.aggregate_id IN (SELECT jsonb_array_elements_text(:'aggregate_ids'::jsonb)))
   AND (:'reason' = '' OR parked.reason = :'reason')
   AND parked.seq > :'after'::bigint
   AND (:'behind' = '' OR place.head = nullif(:'behind', '')::bigint AND place.seq <> place.head)
   AND (:'text' = ''
        OR position(lower(:'text') IN lower(concat_ws(' ', parked.event_id, concat_ws('/', parked.aggregate_type, parked.aggregate_id),
                                                      parked.last_error))) > 0)
   AND parked.parked_at <= now() - :'older_than'::interval
 ORDER BY parked.seq
 LIMIT :'limit'::bigint;
