-- Who keeps restart_lsn from moving: the oldest transactions with an id, in any database, and
-- prepared ones. Young ones do not, nor those that came long after the oldest, and a relay's own are
-- short. Others' sessions show to members of pg_monitor only.
--   psql -v application_name=pgoutbox/pgoutbox -v seconds=10 -f guard/holders.sql
SELECT who, hint
  FROM (SELECT who, hint, age, started, min(started) OVER () AS oldest
          FROM (SELECT format('pid %s (%s, database %s, %s, transaction %s since %s)', pid, usename,
                              coalesce(datname, '-'), state, backend_xid, xact_start::timestamp(0)) AS who,
                       format('SELECT pg_terminate_backend(%s);', pid) AS hint,
                       age(backend_xid) AS age, xact_start AS started
                  FROM pg_stat_activity
                 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
                   AND NOT starts_with(coalesce(application_name, ''), :'application_name')
                UNION ALL
                SELECT format('prepared transaction %L (%s, database %s, transaction %s since %s)', gid, owner,
                              database, transaction, prepared::timestamp(0)),
                       format('ROLLBACK PREPARED %L;  -- or COMMIT PREPARED, in database %s', gid, database),
                       age(transaction), prepared
                  FROM pg_prepared_xacts) AS one) AS holder
 WHERE started <= now() - :'seconds'::float8 * interval '1 second'
   AND now() - started >= (now() - oldest) / 2
 ORDER BY age DESC LIMIT 3;
