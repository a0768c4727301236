-- Whether pgoutbox's own tables are there, and what the connected role may do to them. The
-- names come from the catalog, so that a missing one is an answer and not an error.
SELECT namespace.oid IS NOT NULL AS has_schema,
       has_schema_privilege(namespace.oid, 'USAGE') AS usage,
       progress.oid IS NOT NULL AND session.attname IS NOT NULL AND publishing.attname IS NOT NULL
           AND taken_over.oid IS NOT NULL AS has_progress,
       has_table_privilege(progress.oid, 'SELECT') AND has_table_privilege(progress.oid, 'INSERT')
           AND has_table_privilege(progress.oid, 'UPDATE') AS can_progress,
       relayed.oid IS NOT NULL AS has_relayed,
       has_table_privilege(relayed.oid, 'SELECT') AND has_table_privilege(relayed.oid, 'INSERT')
           AS can_relayed,
       catch_up.oid IS NOT NULL AND rows.oid IS NOT NULL AS has_catch_up,
       has_table_privilege(catch_up.oid, 'SELECT') AND has_table_privilege(catch_up.oid, 'INSERT')
           AND has_table_privilege(catch_up.oid, 'UPDATE') AND has_table_privilege(catch_up.oid, 'DELETE')
           AND has_table_privilege(rows.oid, 'SELECT') AND has_table_privilege(rows.oid, 'INSERT')
           AND has_table_privilege(rows.oid, 'DELETE')
           AND has_table_privilege(parked.oid, 'SELECT') AS can_catch_up,
       parked.oid IS NOT NULL AND pause.oid IS NOT NULL AND claimed.oid IS NOT NULL AND hint.attname IS NOT NULL
           AND prefix.attname IS NOT NULL AND tries.attname IS NOT NULL AND is_record_of.oid IS NOT NULL
           AND is_mark_of.oid IS NOT NULL AS has_parked,
       has_table_privilege(pause.oid, 'SELECT') AND has_table_privilege(parked.oid, 'SELECT') AND has_table_privilege(parked.oid, 'INSERT')
           AND has_table_privilege(parked.oid, 'UPDATE') AND has_table_privilege(parked.oid, 'DELETE')
           AS can_park,
       guard.oid IS NOT NULL AS has_guard,
       has_table_privilege(guard.oid, 'SELECT') AND has_table_privilege(guard.oid, 'INSERT')
           AND has_table_privilege(guard.oid, 'UPDATE') AS can_guard,
       has_table_privilege(relayed.oid, 'SELECT') AND has_table_privilege(relayed.oid, 'DELETE')
           AND has_table_privilege(relayed.oid, 'UPDATE')
           AND has_table_privilege(parked.oid, 'SELECT') AND has_table_privilege(parked.oid, 'DELETE')
           AND has_table_privilege(parked.oid, 'UPDATE') AS can_prune,
       -- In the order in which init/schema.sql makes them; an index or a function where its table is there.
       (SELECT coalesce(array_agg(wanted.name ORDER BY wanted.number), '{}')
          FROM unnest('{progress,taken_over,relayed,is_mark_of,parked,parked_place,parked_id,parked_row,parked_waiting,parked_claimed,is_record_of,catch_up,catch_up_rows,pause,guard,layout}'::text[])
               WITH ORDINALITY AS wanted (name, number)
         WHERE NOT EXISTS (SELECT FROM pg_class AS own
                            WHERE own.relnamespace = namespace.oid AND own.relname = wanted.name)
           AND (wanted.name <> 'is_record_of' OR is_record_of.oid IS NULL)
           AND (wanted.name <> 'taken_over' OR taken_over.oid IS NULL AND progress.oid IS NOT NULL)
           AND (wanted.name <> 'is_mark_of' OR is_mark_of.oid IS NULL AND relayed.oid IS NOT NULL)
           AND (wanted.name !~ '^(parked_|is_record_of)' OR parked.oid IS NOT NULL))
       || ARRAY(SELECT 'progress.' || wanted.name FROM unnest('{coverage,tables,session,messages,change_lsn,change_number,publishing_id,publishing_epoch,publishing_start,confirmed_id,routes,readings,former}'::text[]) AS wanted (name)
                 WHERE progress.oid IS NOT NULL
                   AND NOT EXISTS (SELECT FROM pg_attribute AS own
                                    WHERE own.attrelid = progress.oid AND own.attname = wanted.name))
       || ARRAY(SELECT 'parked.' || wanted.name FROM unnest('{hint,prefix,tries}'::text[]) AS wanted (name)
                 WHERE parked.oid IS NOT NULL
                   AND NOT EXISTS (SELECT FROM pg_attribute AS own
                                    WHERE own.attrelid = parked.oid AND own.attname = wanted.name)) AS missing,
       enqueue.oid IS NOT NULL AS has_enqueue,
       messages.attname IS NOT NULL AS has_messages,
       layout.oid IS NOT NULL AS has_layout
  FROM (SELECT) AS one
  LEFT JOIN pg_namespace AS namespace ON namespace.nspname = 'pgoutbox'
  LEFT JOIN pg_class AS progress
         ON progress.relnamespace = namespace.oid AND progress.relname = 'progress'
  LEFT JOIN pg_attribute AS session
         ON session.attrelid = progress.oid AND session.attname = 'session'
  LEFT JOIN pg_attribute AS publishing
         ON publishing.attrelid = progress.oid AND publishing.attname = 'confirmed_id'
  LEFT JOIN pg_attribute AS messages
         ON messages.attrelid = progress.oid AND messages.attname = 'messages'
  LEFT JOIN pg_proc AS taken_over
         ON taken_over.pronamespace = namespace.oid AND taken_over.proname = 'taken_over'
  LEFT JOIN pg_class AS relayed
         ON relayed.relnamespace = namespace.oid AND relayed.relname = 'relayed'
  LEFT JOIN pg_class AS catch_up
         ON catch_up.relnamespace = namespace.oid AND catch_up.relname = 'catch_up'
  LEFT JOIN pg_class AS rows
         ON rows.relnamespace = namespace.oid AND rows.relname = 'catch_up_rows'
  LEFT JOIN pg_class AS parked
         ON parked.relnamespace = namespace.oid AND parked.relname = 'parked'
  -- Of parked, and the last that an earlier version did not make: with it all else is there.
  LEFT JOIN pg_class AS claimed
         ON claimed.relnamespace = namespace.oid AND claimed.relname = 'parked_claimed'
  LEFT JOIN pg_attribute AS hint ON hint.attrelid = parked.oid AND hint.attname = 'hint'
  LEFT JOIN pg_attribute AS prefix ON prefix.attrelid = parked.oid AND prefix.attname = 'prefix'
  LEFT JOIN pg_attribute AS tries ON tries.attrelid = parked.oid AND tries.attname = 'tries'
  LEFT JOIN pg_class AS pause
         ON pause.relnamespace = namespace.oid AND pause.relname = 'pause'
  LEFT JOIN pg_class AS guard
         ON guard.relnamespace = namespace.oid AND guard.relname = 'guard'
  LEFT JOIN pg_class AS layout
         ON layout.relnamespace = namespace.oid AND layout.relname = 'layout'
  LEFT JOIN pg_proc AS is_record_of
         ON is_record_of.pronamespace = namespace.oid AND is_record_of.proname = 'is_record_of'
        -- An earlier version made another, of fewer arguments.
        AND is_record_of.pronargs = 5
  LEFT JOIN pg_proc AS is_mark_of
         ON is_mark_of.pronamespace = namespace.oid AND is_mark_of.proname = 'is_mark_of'
  LEFT JOIN pg_proc AS enqueue
         ON enqueue.pronamespace = namespace.oid AND enqueue.proname = 'enqueue';
