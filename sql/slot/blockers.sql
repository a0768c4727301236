-- Who keeps a slot from being created: every transaction with an id, in any database, but for those
-- that have only just begun, and pgoutbox's own, which are short.
SELECT format('pid %s (%s, database %s, %s, transaction %s since %s)', pid, usename,
              coalesce(datname, '-'), state, backend_xid, xact_start::timestamp(0)) AS who,
       format('SELECT pg_terminate_backend(%s);', pid) AS hint
  FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - interval '250 ms'
   AND NOT starts_with(coalesce(application_name, ''), current_setting('application_name'))
UNION ALL
SELECT format('prepared transaction %L (%s, database %s, transaction %s since %s)', gid, owner,
              database, transaction, prepared::timestamp(0)),
       format('ROLLBACK PREPARED %L;  -- or COMMIT PREPARED, in database %s', gid, database)
  FROM pg_prepared_xacts
 ORDER BY 1;
