-- What the connected role may do to one table, and to pgoutbox's own. Null: not there to ask of.
--   psql -v relation=16389 -v id=id -v relayed_at=relayed_at -f check_privileges.sql
SELECT has_schema_privilege(relation.relnamespace, 'USAGE') AS usage,
       (SELECT has_column_privilege(relation.oid, attnum, 'SELECT') FROM pg_attribute
         WHERE attrelid = relation.oid AND attname = :'id') AS select_id,
       (SELECT has_column_privilege(relation.oid, attnum, 'SELECT') FROM pg_attribute
         WHERE attrelid = relation.oid AND attname = :'relayed_at') AS select_mark,
       (SELECT has_column_privilege(relation.oid, attnum, 'UPDATE') FROM pg_attribute
         WHERE attrelid = relation.oid AND attname = :'relayed_at') AS update_mark,
       has_table_privilege(relation.oid, 'SELECT') AS select_all,
       has_table_privilege(relation.oid, 'DELETE') AS delete,
       has_any_column_privilege(relation.oid, 'UPDATE') AS update_any,
       row_security_active(relation.oid) AS has_row_security
  FROM pg_class AS relation
 WHERE relation.oid = :'relation'::oid;
