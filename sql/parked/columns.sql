-- Of the columns in which a row shows the tries of its event, those that are there and that
-- the connected role may write.
--   psql -v relation=16389 -v attempt=attempt -v last_error=last_error -v failed_at=failed_at \
--        -v failed_names='["status"]' -f parked/columns.sql
SELECT attname::text AS name
  FROM pg_attribute
 WHERE attrelid = :'relation'::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
   AND (attname IN (:'attempt', :'last_error', :'failed_at') OR (:'failed_names'::jsonb) ? attname)
   AND has_column_privilege(attrelid, attnum, 'SELECT') AND has_column_privilege(attrelid, attnum, 'UPDATE');
