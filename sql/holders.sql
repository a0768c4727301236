-- Who keeps restart_lsn from moving: the oldest transactions with an id, in any database, and
-- prepared ones. Others' sessions show to members of pg_monitor only.
SELECT who, mend
  FROM (SELECT format('pid %s (%s, database %s, %s, transaction %s since %s)', pid, usename,
                      coalesce(datname, '-'), state, backend_xid, xact_start::timestamp(0)) AS who,
               format('SELECT pg_terminate_backend(%s);', pid) AS mend,
               age(backend_xid) AS age
          FROM pg_stat_activity
         WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
        UNION ALL
        SELECT format('prepared transaction %L (%s, database %s, transaction %s since %s)', gid, owner,
                      database, transaction, prepared::timestamp(0)),
               format('ROLLBACK PREPARED %L;  -- or COMMIT PREPARED, in database %s', gid, database),
               age(transaction)
          FROM pg_prepared_xacts) AS holder
 ORDER BY age DESC LIMIT 3;
