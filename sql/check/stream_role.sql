-- Whether a role may stream from this database. One row, or none where it does not exist.
--   psql -v stream_role=pgoutbox_stream -f check/stream_role.sql
SELECT role.rolreplication OR role.rolsuper
           -- Amazon RDS gives the right by membership.
           OR coalesce(pg_has_role(role.oid, rds.oid, 'MEMBER'), false) AS can_stream,
       role.rolcanlogin AS can_login,
       has_database_privilege(role.oid, current_database(), 'CONNECT') AS can_connect
  FROM pg_roles AS role
  LEFT JOIN pg_roles AS rds ON rds.rolname = 'rds_replication'
 WHERE role.rolname = :'stream_role';
