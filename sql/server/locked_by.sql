-- Who has locked a table, or rows of it, for the longest time: who has the whole table first.
--   $1 text: the table
SELECT activity.pid, activity.state, activity.application_name,
       extract(epoch FROM now() - activity.xact_start)::float8 AS seconds
  FROM pg_locks AS own
  JOIN pg_stat_activity AS activity ON activity.pid = own.pid
 WHERE own.locktype = 'relation' AND own.relation = $1::text::regclass AND own.granted
   AND own.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND own.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock')
   AND own.pid <> pg_backend_pid()
 ORDER BY own.mode NOT IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'),
          activity.xact_start LIMIT 1;
