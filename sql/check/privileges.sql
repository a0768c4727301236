-- What the connected role may do to one table, and to pgoutbox's own. Null: not there to ask of.
--   psql -v relation=16389 -v id=id -v mark_names='["relayed_at"]' -v occurred_at=occurred_at -v attempt=attempt \
--        -v last_error=last_error -v failed_at=failed_at -v failed_names='[]' -v rule_names='[]' -v publication=pgoutbox \
--        -f check/privileges.sql
WITH RECURSIVE part (relid) AS (           -- pg_partition_tree waits for locks
    SELECT link.inhrelid FROM pg_inherits AS link WHERE link.inhparent = :'relation'::oid
     UNION
    SELECT link.inhrelid FROM part JOIN pg_inherits AS link ON link.inhparent = part.relid
), wanted (attname) AS (                   -- by reconciliation, beside what marks need
    SELECT name::name FROM unnest(ARRAY[:'id', :'occurred_at', 'xmin', 'ctid']) AS name
     UNION
    SELECT name::name FROM jsonb_array_elements_text(:'rule_names'::jsonb) AS name
     UNION                                 -- of the publication's row filter
    SELECT filtered.attname
      FROM pg_publication_rel AS member
      JOIN pg_publication AS publication ON publication.oid = member.prpubid AND publication.pubname = :'publication'
      JOIN pg_depend AS depend
        ON depend.classid = 'pg_publication_rel'::regclass AND depend.objid = member.oid
       AND depend.refclassid = 'pg_class'::regclass AND depend.refobjsubid > 0
      JOIN pg_attribute AS filtered ON filtered.attrelid = depend.refobjid AND filtered.attnum = depend.refobjsubid
     WHERE member.prrelid = :'relation'::oid
), own_policies AS (
    SELECT policy.* FROM pg_policy AS policy
     WHERE policy.polrelid = :'relation'::oid
       AND EXISTS (SELECT FROM unnest(policy.polroles) AS role (oid)
                    WHERE role.oid = 0 OR pg_has_role(role.oid, 'USAGE'))
)
SELECT has_schema_privilege(relation.relnamespace, 'USAGE') AS usage,
       (SELECT has_column_privilege(relation.oid, attnum, 'SELECT') FROM pg_attribute
         WHERE attrelid = relation.oid AND attname = :'id') AS select_id,
       (SELECT bool_and(has_column_privilege(relation.oid, attnum, 'SELECT')) FROM pg_attribute
         WHERE attrelid = relation.oid AND (:'mark_names'::jsonb) ? attname) AS select_mark,
       (SELECT bool_and(has_column_privilege(relation.oid, attnum, 'UPDATE')) FROM pg_attribute
         WHERE attrelid = relation.oid AND (:'mark_names'::jsonb) ? attname) AS update_mark,
       has_table_privilege(relation.oid, 'SELECT') AS select_all,
       has_table_privilege(relation.oid, 'DELETE') AS delete,
       has_any_column_privilege(relation.oid, 'UPDATE') AS update_any,
       -- Of what reconciliation reads, and of where a row shows the tries of its event: columns that
       -- are there, and not for this role.
       (SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') FROM pg_attribute
         WHERE attrelid = relation.oid AND attname IN (SELECT attname FROM wanted)
           AND NOT has_column_privilege(relation.oid, attnum, 'SELECT')) AS unreadable,
       (SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') FROM pg_attribute
         WHERE attrelid = relation.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
           AND (attname IN (:'attempt', :'last_error', :'failed_at') OR (:'failed_names'::jsonb) ? attname)
           AND NOT (has_column_privilege(relation.oid, attnum, 'SELECT')
                    AND has_column_privilege(relation.oid, attnum, 'UPDATE'))) AS unwritable,
       -- The schema of the id's type, where the role may not look into it.
       (WITH RECURSIVE type AS (
            SELECT type.typbasetype, type.typnamespace
              FROM pg_attribute AS attribute JOIN pg_type AS type ON type.oid = attribute.atttypid
             WHERE attribute.attrelid = relation.oid AND attribute.attname = :'id'
            UNION ALL
            SELECT base.typbasetype, base.typnamespace FROM type JOIN pg_type AS base ON base.oid = type.typbasetype)
        SELECT typnamespace::regnamespace::text FROM type
         WHERE typbasetype = 0 AND NOT has_schema_privilege(typnamespace, 'USAGE')) AS closed_type_schema,
       -- Partitions that reconciliation cannot read, and pruning cannot delete from: both go one by one.
       ARRAY(SELECT leaf.oid::regclass::text
               FROM part
               JOIN pg_class AS leaf ON leaf.oid = part.relid AND leaf.relkind = 'r' AND leaf.relispartition
              WHERE (NOT has_schema_privilege(leaf.relnamespace, 'USAGE')
                     OR EXISTS (SELECT FROM pg_attribute
                                 WHERE attrelid = leaf.oid AND attname IN (SELECT attname FROM wanted)
                                   AND NOT has_column_privilege(leaf.oid, attnum, 'SELECT')))
              ORDER BY 1) AS unreadable_leaves,
       ARRAY(SELECT leaf.oid::regclass::text
               FROM part
               JOIN pg_class AS leaf ON leaf.oid = part.relid AND leaf.relkind = 'r' AND leaf.relispartition
              WHERE NOT (has_table_privilege(leaf.oid, 'DELETE') AND has_any_column_privilege(leaf.oid, 'UPDATE'))
              ORDER BY 1) AS undeletable_leaves,
       -- Where no policy shows this role every row, or one takes some away.
       row_security_active(relation.oid)
           AND NOT (EXISTS (SELECT FROM own_policies AS policy
                             WHERE policy.polpermissive AND policy.polcmd = '*'
                               AND pg_get_expr(policy.polqual, policy.polrelid) = 'true'
                               AND coalesce(pg_get_expr(policy.polwithcheck, policy.polrelid), 'true') = 'true')
                    AND NOT EXISTS (SELECT FROM own_policies AS policy WHERE NOT policy.polpermissive))
           AS has_row_security,
       EXISTS (SELECT FROM own_policies AS policy WHERE NOT policy.polpermissive) AS has_restrictive_policy
  FROM pg_class AS relation
 WHERE relation.oid = :'relation'::oid;
