-- Whether all is there that init/roles.sql makes. The names come from the catalog, so that a missing one is an
-- answer and not an error.
--   psql -v stream_role=pgoutbox_stream -v audit_role=pgoutbox_audit -v database=app -f init/roles_known.sql
WITH role AS (
    SELECT (SELECT oid FROM pg_roles WHERE rolname = :'stream_role') AS stream,
           (SELECT oid FROM pg_roles WHERE rolname = :'audit_role') AS audit
), wanted (name, privileges) AS (
    VALUES ('pause', '{SELECT,INSERT,UPDATE,DELETE}'::text[]), ('parked', '{SELECT,INSERT,UPDATE,DELETE}'),
           ('catch_up', '{SELECT,INSERT,UPDATE,DELETE}'), ('catch_up_rows', '{SELECT,INSERT,UPDATE,DELETE}'),
           ('progress', '{SELECT,INSERT,UPDATE}'), ('guard', '{SELECT,INSERT,UPDATE}'), ('relayed', '{SELECT}')
)
SELECT coalesce(
           has_database_privilege(role.stream, database.oid, 'CONNECT') AND has_database_privilege(role.audit, database.oid, 'CONNECT')
           AND has_schema_privilege(role.audit, namespace.oid, 'USAGE')
           AND (SELECT bool_and(coalesce(has_table_privilege(role.audit, own.oid, privilege), false))
                  FROM wanted CROSS JOIN unnest(wanted.privileges) AS privilege
                  LEFT JOIN pg_class AS own ON own.relnamespace = namespace.oid AND own.relname = wanted.name)
           AND (SELECT bool_and(coalesce(has_function_privilege(role.audit, own.oid, 'EXECUTE'), false))
                  FROM unnest('{parked_queue,parked_places}'::text[]) AS called (name)
                  LEFT JOIN pg_proc AS own ON own.pronamespace = namespace.oid AND own.proname = called.name),
           false) AS is_there
  FROM role
  LEFT JOIN pg_database AS database ON database.datname = :'database'
  LEFT JOIN pg_namespace AS namespace ON namespace.nspname = 'pgoutbox';
