-- What reconciliation and `pgoutbox verify` read, beside what marks need: which transaction wrote
-- a row, where it stands and, where the table says so, when it happened; and what tells the rows that are
-- published: columns of the table's rule (rule_names) and of publications' row filters. No payload.
BEGIN;
-- The column of the time may not be there, and psql does not look into the dollar quotes below. Partitions
-- are read one by one, so each needs the grant too.
SELECT set_config('pgoutbox.grant', string_agg(format(
           'GRANT USAGE ON SCHEMA %4$s TO %3$I; GRANT SELECT (%1$s) ON %2$s TO %3$I;',
           columns.names, part.oid::regclass, :'audit_role'::text, relation.relnamespace::regnamespace), ' '), true)
  FROM (SELECT format('%I.%I', :'schema'::text, :'table'::text)::regclass::oid AS oid
        UNION SELECT relid FROM pg_partition_tree(format('%I.%I', :'schema'::text, :'table'::text)::regclass)) AS part
  JOIN pg_class AS relation ON relation.oid = part.oid AND relation.relkind IN ('r', 'p')
 CROSS JOIN LATERAL (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS names FROM pg_attribute
                      WHERE attrelid = part.oid
                        AND (attname IN ('xmin', 'ctid', :'id', :'occurred_at')
                             OR (:'rule_names'::jsonb) ? attname
                             OR attname IN (SELECT filtered.attname
                                              FROM pg_publication_rel AS member
                                              JOIN pg_depend AS depend
                                                ON depend.classid = 'pg_publication_rel'::regclass AND depend.objid = member.oid
                                               AND depend.refclassid = 'pg_class'::regclass AND depend.refobjsubid > 0
                                              JOIN pg_attribute AS filtered
                                                ON filtered.attrelid = depend.refobjid AND filtered.attnum = depend.refobjsubid
                                             WHERE member.prrelid = format('%I.%I', :'schema'::text, :'table'::text)::regclass))
                     ) AS columns;
DO $do$
BEGIN
    EXECUTE current_setting('pgoutbox.grant');
END
$do$;
COMMIT;
