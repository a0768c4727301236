-- The type of the column that says when a row's event happened, where the connected role may read what tells the
-- row of an event from another with its id: that, and which transaction wrote it. No row where it may not.
--   psql -v relation=16389 -v occurred_at=occurred_at -f mark/told_by.sql
SELECT time.atttypid AS type_oid
  FROM pg_attribute AS time
  JOIN pg_attribute AS writer ON writer.attrelid = time.attrelid AND writer.attname = 'xmin'
 WHERE time.attrelid = :'relation'::oid AND time.attname = :'occurred_at'
   AND time.attnum > 0 AND NOT time.attisdropped
   AND has_column_privilege(time.attrelid, time.attnum, 'SELECT')
   AND has_column_privilege(writer.attrelid, writer.attnum, 'SELECT');
