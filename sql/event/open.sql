-- Transactions that have written to outbox tables and have not ended: nobody else sees what they wrote.
--   psql -v relations='{16389}' -f event/open.sql
SELECT count(*) AS transactions,
       max(extract(epoch FROM clock_timestamp() - coalesce(activity.xact_start, prepared.prepared)))::float8 AS oldest_seconds,
       string_agg(coalesce('pid ' || writer.pid, 'prepared ' || quote_literal(prepared.gid)), ', ' ORDER BY writer.pid) AS who
  FROM (SELECT DISTINCT pid, virtualtransaction FROM pg_locks
         WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND relation = ANY (:'relations'::oid[])) AS writer
  LEFT JOIN pg_stat_activity AS activity ON activity.pid = writer.pid
  LEFT JOIN pg_prepared_xacts AS prepared ON writer.virtualtransaction = '-1/' || prepared.transaction::text
 -- A relay that marks rows has written nothing that it is to publish.
 WHERE coalesce(activity.application_name, '') NOT LIKE 'pgoutbox%';
