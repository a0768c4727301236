-- One table: its kind, and what about it would make marks expensive or dangerous. One row, or none.
--   psql -v schema=public -v table=outbox_messages -v mark_names='["relayed_at"]' -f check/table.sql
WITH RECURSIVE relation AS (
    SELECT relation.oid, relation.relkind, relation.relpersistence, relation.relreplident, relation.relispartition
      FROM pg_class AS relation
      JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
     WHERE namespace.nspname = :'schema' AND relation.relname = :'table'
), part (relid) AS (                       -- pg_partition_tree waits for locks
    SELECT oid FROM relation
     UNION
    SELECT link.inhrelid FROM part JOIN pg_inherits AS link ON link.inhparent = part.relid
)
SELECT relation.oid,
       relation.relkind::text AS kind,
       relation.relpersistence::text AS persistence,
       relation.relreplident = 'f' AS is_identity_full,
       relation.relispartition AS is_partition,
       (SELECT root.relid::text FROM pg_partition_ancestors(relation.oid) WITH ORDINALITY AS root (relid, depth)
         ORDER BY depth DESC LIMIT 1) AS root,
       -- The keys of all levels of partitioning, as text, and the columns they are made of.
       (SELECT string_agg(pg_get_partkeydef(partitioned.partrelid), ', ')
          FROM part JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = part.relid) AS partition_key,
       coalesce((SELECT array_agg(DISTINCT dependency.column_name) FROM (
           SELECT attribute.attname::text AS column_name
             FROM part
             JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = part.relid
             JOIN pg_attribute AS attribute ON attribute.attrelid = part.relid AND attribute.attnum > 0
            WHERE attribute.attnum = ANY (partitioned.partattrs::int2[])
               -- Columns of a key's expressions cannot be dropped without the table.
               OR EXISTS (SELECT FROM pg_depend AS within
                           WHERE within.classid = 'pg_class'::regclass AND within.objid = part.relid
                             AND within.objsubid = attribute.attnum AND within.deptype = 'i'
                             AND within.refclassid = 'pg_class'::regclass AND within.refobjid = part.relid
                             AND within.refobjsubid = 0)) AS dependency), '{}') AS key_columns,
       -- Indexes that hold a column of the mark, as key, in an expression or as condition.
       coalesce((SELECT array_agg(DISTINCT index.indexrelid::regclass::text)
                   FROM pg_index AS index
                   JOIN pg_attribute AS attribute ON attribute.attrelid = index.indrelid
                    AND (:'mark_names'::jsonb) ? attribute.attname
                  WHERE index.indrelid = relation.oid
                    AND (attribute.attnum = ANY (index.indkey::int2[])
                         OR EXISTS (SELECT FROM pg_depend AS dependency
                                     WHERE dependency.classid = 'pg_class'::regclass
                                       AND dependency.objid = index.indexrelid
                                       AND dependency.refclassid = 'pg_class'::regclass
                                       AND dependency.refobjid = index.indrelid
                                       AND dependency.refobjsubid = attribute.attnum))), '{}') AS mark_indexes
  FROM relation;
