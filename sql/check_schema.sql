-- Whether pgoutbox's own tables are there, and what the connected role may do to them. The
-- names come from the catalog, so that a missing one is an answer and not an error.
SELECT namespace.oid IS NOT NULL AS has_schema,
       has_schema_privilege(namespace.oid, 'USAGE') AS usage,
       progress.oid IS NOT NULL AS has_progress,
       has_table_privilege(progress.oid, 'SELECT') AND has_table_privilege(progress.oid, 'INSERT')
           AND has_table_privilege(progress.oid, 'UPDATE') AS can_progress,
       relayed.oid IS NOT NULL AS has_relayed,
       has_table_privilege(relayed.oid, 'SELECT') AND has_table_privilege(relayed.oid, 'INSERT')
           AS can_relayed,
       enqueue.oid IS NOT NULL AS has_enqueue
  FROM (SELECT) AS one
  LEFT JOIN pg_namespace AS namespace ON namespace.nspname = 'pgoutbox'
  LEFT JOIN pg_class AS progress
         ON progress.relnamespace = namespace.oid AND progress.relname = 'progress'
  LEFT JOIN pg_class AS relayed
         ON relayed.relnamespace = namespace.oid AND relayed.relname = 'relayed'
  LEFT JOIN pg_proc AS enqueue
         ON enqueue.pronamespace = namespace.oid AND enqueue.proname = 'enqueue';
