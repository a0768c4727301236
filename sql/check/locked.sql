-- Who has so locked a table, and for so many seconds or more, that no row of it can be marked: the oldest transaction.
--   psql -v schema=public -v table=outbox_messages -v seconds=5 -f check/locked.sql
SELECT activity.pid, coalesce(activity.state, '') AS state, coalesce(activity.application_name, '') AS application_name,
       extract(epoch FROM clock_timestamp() - activity.xact_start)::float8 AS seconds
  FROM pg_class AS relation
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
  JOIN pg_locks AS own ON own.locktype = 'relation' AND own.relation = relation.oid AND own.granted
   AND own.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND own.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  JOIN pg_stat_activity AS activity ON activity.pid = own.pid
 WHERE namespace.nspname = :'schema' AND relation.relname = :'table'
   AND clock_timestamp() - activity.xact_start >= :'seconds'::float8 * interval '1 second'
 ORDER BY activity.xact_start
 LIMIT 1;
