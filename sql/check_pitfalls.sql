-- What about one table would keep rows out of the stream, or marks out of its rows. One row.
--   psql -v relation=16389 -v relayed_at=relayed_at -v event=u -f check_pitfalls.sql
-- event: how marks are written: u for UPDATE, d for DELETE, - for neither.
WITH tree AS (
    SELECT relation.oid, relation.relkind, relation.relpersistence, relation.relreplident,
           format('%I.%I', namespace.nspname, relation.relname) AS name
      FROM (SELECT relid FROM pg_partition_tree(:'relation'::oid)
            UNION SELECT :'relation'::oid) AS part (oid)
      JOIN pg_class AS relation ON relation.oid = part.oid
      JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
), mark AS (
    SELECT attribute.attnum, attribute.attnotnull OR type.typnotnull AS is_required,
           coalesce(pg_get_expr(filled.adbin, filled.adrelid), type.typdefault) AS filled_with
      FROM pg_attribute AS attribute
      JOIN pg_type AS type ON type.oid = attribute.atttypid
      LEFT JOIN pg_attrdef AS filled ON filled.adrelid = attribute.attrelid AND filled.adnum = attribute.attnum
     WHERE attribute.attrelid = :'relation'::oid AND attribute.attname = :'relayed_at'
), sent AS (
    SELECT DISTINCT publication.pubname::text AS name
      FROM pg_publication AS publication, pg_get_publication_tables(publication.pubname::text) AS covered
     WHERE CASE :'event' WHEN 'u' THEN publication.pubupdate WHEN 'd' THEN publication.pubdelete END
       AND covered.relid IN (SELECT oid FROM tree)
)
SELECT (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = :'relation'::oid) AS is_table,
       -- Rows of these come under their own names. Partitions are children too.
       ARRAY(SELECT format('%I.%I', namespace.nspname, child.relname)
               FROM pg_inherits AS link
               JOIN pg_class AS child ON child.oid = link.inhrelid AND NOT child.relispartition
               JOIN pg_namespace AS namespace ON namespace.oid = child.relnamespace
              WHERE link.inhparent = :'relation'::oid
              ORDER BY 1) AS children,
       ARRAY(SELECT name FROM tree WHERE relkind = 'r' AND relpersistence = 'u' AND oid <> :'relation'::oid
              ORDER BY 1) AS unlogged,
       ARRAY(SELECT name FROM tree WHERE relkind = 'f' ORDER BY 1) AS foreign_leaves,
       -- Each row would come with its mark.
       (SELECT filled_with FROM mark WHERE filled_with !~* '^\s*null\M') AS mark_default,
       coalesce((SELECT is_required FROM mark), false) AS is_mark_required,
       -- Rows that these refer to cannot be deleted.
       ARRAY(SELECT format('%s:%I', conrelid::regclass, conname) FROM pg_constraint
              WHERE confrelid = :'relation'::oid AND contype = 'f' AND conparentid = 0
                AND confdeltype IN ('a', 'r') AND :'event' = 'd' ORDER BY 1) AS references_to,
       -- Postgres refuses to update or delete a row that a publication sends and nothing identifies.
       ARRAY(SELECT name FROM tree
              WHERE relkind = 'r' AND relreplident <> 'f' AND EXISTS (SELECT FROM sent)
                AND NOT EXISTS (SELECT FROM pg_index AS index
                                 WHERE index.indrelid = tree.oid AND index.indisvalid
                                   AND CASE tree.relreplident WHEN 'd' THEN index.indisprimary
                                                              WHEN 'i' THEN index.indisreplident END)
              ORDER BY 1) AS unidentified,
       ARRAY(SELECT name FROM sent ORDER BY 1) AS sent_by,
       -- What of the user's own runs with each mark.
       ARRAY(SELECT DISTINCT 'trigger ' || quote_ident(tgname) FROM pg_trigger
              WHERE tgrelid IN (SELECT oid FROM tree) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
                AND CASE :'event' WHEN 'u' THEN tgtype & 16 <> 0
                                       AND (cardinality(tgattr::int2[]) = 0
                                            OR (SELECT attnum FROM mark) = ANY (tgattr::int2[]))
                                  WHEN 'd' THEN tgtype & 8 <> 0 END
              UNION
             SELECT DISTINCT 'rule ' || quote_ident(rulename) FROM pg_rewrite
              WHERE ev_class IN (SELECT oid FROM tree) AND ev_enabled IN ('O', 'A')
                AND ev_type = CASE :'event' WHEN 'u' THEN '2' WHEN 'd' THEN '4' END
              ORDER BY 1) AS beside_marks;
