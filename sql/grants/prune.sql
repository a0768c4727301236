-- What pruning needs beyond grants/*.sql: to the audit role where run prunes (prune.keep), or to
-- a role of its own that `pgoutbox prune` is run as from time to time. UPDATE of a column, since
-- Postgres asks it of FOR UPDATE, which passes over rows that somebody else has locked. To make
-- and drop partitions the table must be one's own: GRANT its owner to the role, or run
-- `pgoutbox prune` as the owner.
BEGIN;
-- The column of the time may not be there, and psql does not look into the dollar quotes below. Partitions
-- are read one by one, so each needs the grant too.
SELECT set_config('pgoutbox.grant', string_agg(format(
           'GRANT USAGE ON SCHEMA %5$s TO %3$I; GRANT SELECT (%1$s), UPDATE (%4$s), DELETE ON %2$s TO %3$I;',
           columns.names, part.oid::regclass, :'audit_role'::text, quote_ident(:'id'::text), relation.relnamespace::regnamespace), ' '), true)
  FROM (SELECT format('%I.%I', :'schema'::text, :'table'::text)::regclass::oid AS oid
        UNION SELECT relid FROM pg_partition_tree(format('%I.%I', :'schema'::text, :'table'::text)::regclass)) AS part
  JOIN pg_class AS relation ON relation.oid = part.oid AND relation.relkind IN ('r', 'p')
 CROSS JOIN LATERAL (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS names FROM pg_attribute
                      WHERE attrelid = part.oid AND attname IN ('xmin', 'ctid', :'id', :'occurred_at')) AS columns;
DO $do$
BEGIN
    EXECUTE current_setting('pgoutbox.grant');
END
$do$;
GRANT USAGE ON SCHEMA pgoutbox TO :"audit_role";
GRANT SELECT, DELETE, UPDATE ON pgoutbox.relayed, pgoutbox.parked TO :"audit_role";
COMMIT;
