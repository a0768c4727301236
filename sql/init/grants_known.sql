-- Which of grants/*.sql a role has already, for one table: a column for each. No row: there is no such table.
--   psql -v schema=public -v table=outbox_messages -v id=id -v mark_names='["relayed_at"]' -v occurred_at=occurred_at \
--        -v attempt=attempt -v last_error=last_error -v failed_at=failed_at -v failed_names='[]' -v rule_names='[]' \
--        -v audit_role=pgoutbox_audit -f init/grants_known.sql
WITH RECURSIVE role AS (
    SELECT (SELECT oid FROM pg_roles WHERE rolname = :'audit_role') AS oid
), relation AS (
    SELECT class.oid, class.relnamespace
      FROM pg_class AS class JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
     WHERE namespace.nspname = :'schema' AND class.relname = :'table'
), tree (oid) AS (
    SELECT oid FROM relation
     UNION
    SELECT link.inhrelid FROM tree JOIN pg_inherits AS link ON link.inhparent = tree.oid
), part AS (                               -- each is read by itself, and so has its own grants
    SELECT class.oid, class.relnamespace FROM tree JOIN pg_class AS class ON class.oid = tree.oid
     WHERE class.relkind IN ('r', 'p') AND (class.relispartition OR class.oid = (SELECT oid FROM relation))
), of_role AS (
    SELECT attribute.attrelid, attribute.attname, attribute.attnum > 0 AND attribute.attgenerated = '' AS is_written,
           coalesce(has_column_privilege(role.oid, attribute.attrelid, attribute.attnum, 'SELECT'), false) AS is_read_by,
           coalesce(has_column_privilege(role.oid, attribute.attrelid, attribute.attnum, 'UPDATE'), false) AS is_written_by
      FROM part JOIN pg_attribute AS attribute ON attribute.attrelid = part.oid CROSS JOIN role
     WHERE NOT attribute.attisdropped
), filtered AS (                           -- columns of publications' row filters
    SELECT attribute.attname
      FROM relation
      JOIN pg_publication_rel AS member ON member.prrelid = relation.oid
      JOIN pg_depend AS depend
        ON depend.classid = 'pg_publication_rel'::regclass AND depend.objid = member.oid
       AND depend.refclassid = 'pg_class'::regclass AND depend.refobjsubid > 0
      JOIN pg_attribute AS attribute ON attribute.attrelid = depend.refobjid AND attribute.attnum = depend.refobjsubid
), has AS (
    SELECT relation.oid,
           coalesce(has_schema_privilege(role.oid, relation.relnamespace, 'USAGE'), false) AS usage,
           coalesce(has_table_privilege(role.oid, relation.oid, 'SELECT'), false) AS select_all,
           coalesce(has_table_privilege(role.oid, relation.oid, 'DELETE'), false) AS delete,
           (SELECT bool_and(is_read_by) FROM of_role WHERE attrelid = relation.oid AND attname = :'id') AS select_id,
           (SELECT bool_and(is_written_by) FROM of_role WHERE attrelid = relation.oid AND attname = :'id') AS update_id,
           coalesce((SELECT bool_and(has_table_privilege(role.oid, own.oid, 'SELECT') AND has_table_privilege(role.oid, own.oid, 'INSERT'))
                       FROM pg_class AS own
                      WHERE own.relnamespace = to_regnamespace('pgoutbox') AND own.relname = 'relayed'), false) AS marks,
           coalesce(has_schema_privilege(role.oid, to_regnamespace('pgoutbox'), 'USAGE')
                    AND (SELECT bool_and(has_table_privilege(role.oid, own.oid, privilege))
                           FROM pg_class AS own CROSS JOIN unnest('{SELECT,DELETE,UPDATE}'::text[]) AS privilege
                          WHERE own.relnamespace = to_regnamespace('pgoutbox') AND own.relname IN ('relayed', 'parked')), false) AS prunes,
           (SELECT bool_and(coalesce(has_schema_privilege(role.oid, part.relnamespace, 'USAGE'), false)) FROM part) AS usage_of_parts
      FROM relation CROSS JOIN role
)
SELECT coalesce(usage AND select_id AND NOT EXISTS (
           SELECT FROM of_role
            WHERE attrelid = has.oid AND is_written
              AND (attname IN (:'attempt', :'last_error', :'failed_at') OR (:'failed_names'::jsonb) ? attname)
              AND NOT (is_read_by AND is_written_by)), false) AS parked,
       NOT EXISTS (
           WITH RECURSIVE type AS (
               SELECT type.typbasetype, type.typnamespace
                 FROM pg_attribute AS attribute JOIN pg_type AS type ON type.oid = attribute.atttypid
                WHERE attribute.attrelid = has.oid AND attribute.attname = :'id'
                UNION ALL
               SELECT base.typbasetype, base.typnamespace FROM type JOIN pg_type AS base ON base.oid = type.typbasetype)
           SELECT FROM type CROSS JOIN role
            WHERE typbasetype = 0 AND typnamespace <> 'pg_catalog'::regnamespace
              AND NOT coalesce(has_schema_privilege(role.oid, typnamespace, 'USAGE'), false)) AS type,
       coalesce(usage AND select_id AND NOT EXISTS (
           SELECT FROM of_role
            WHERE attrelid = has.oid AND (:'mark_names'::jsonb) ? attname AND NOT (is_read_by AND is_written_by)), false) AS update,
       coalesce(usage AND select_id AND update_id AND delete, false) AS delete,
       marks AS side_table,
       usage AND select_all AS catch_up,
       coalesce(usage_of_parts AND prunes AND NOT EXISTS (
           SELECT FROM part CROSS JOIN role
            WHERE NOT coalesce(has_table_privilege(role.oid, part.oid, 'DELETE'), false)
               OR EXISTS (SELECT FROM of_role
                           WHERE attrelid = part.oid
                             AND (attname IN ('xmin', 'ctid', :'id', :'occurred_at') AND NOT is_read_by
                                  OR attname = :'id' AND NOT is_written_by))), false) AS prune,
       coalesce(usage_of_parts AND NOT EXISTS (
           SELECT FROM of_role
            WHERE NOT is_read_by
              AND (attname IN ('xmin', 'ctid', :'id', :'occurred_at') OR (:'rule_names'::jsonb) ? attname
                   OR attname IN (SELECT attname FROM filtered))), false) AS reconcile
  FROM has;
