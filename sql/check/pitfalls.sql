-- What about one table would keep rows out of the stream, or marks out of its rows. One row.
--   psql -v relation=16389 -v mark_names='["relayed_at"]' -v event=u -f check/pitfalls.sql
-- event: how marks are written: u for UPDATE, d for DELETE, - for neither.
-- Rows of the catalog only: pg_partition_tree waits for whoever has locked a partition, and
-- pg_get_publication_tables for whoever has locked any table of a publication.
WITH RECURSIVE part (oid) AS (
    SELECT :'relation'::oid
     UNION
    SELECT link.inhrelid
      FROM part JOIN pg_inherits AS link ON link.inhparent = part.oid
      JOIN pg_class AS child ON child.oid = link.inhrelid AND child.relispartition
), tree AS (
    SELECT relation.oid, relation.relkind, relation.relpersistence, relation.relreplident,
           format('%I.%I', namespace.nspname, relation.relname) AS name
      FROM part
      JOIN pg_class AS relation ON relation.oid = part.oid
      JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
), mark AS (
    SELECT attribute.attnum, attribute.attname, attribute.attnotnull OR type.typnotnull AS is_required,
           coalesce(pg_get_expr(filled.adbin, filled.adrelid), type.typdefault) AS filled_with
      FROM pg_attribute AS attribute
      JOIN pg_type AS type ON type.oid = attribute.atttypid
      LEFT JOIN pg_attrdef AS filled ON filled.adrelid = attribute.attrelid AND filled.adnum = attribute.attnum
     WHERE attribute.attrelid = :'relation'::oid AND (:'mark_names'::jsonb) ? attribute.attname
), family (oid, namespace) AS (            -- and what it is a partition of
    SELECT oid, (SELECT relnamespace FROM pg_class WHERE pg_class.oid = tree.oid) FROM tree
     UNION
    SELECT up.relid, ancestor.relnamespace
      FROM pg_partition_ancestors(:'relation'::oid) AS up (relid)
      JOIN pg_class AS ancestor ON ancestor.oid = up.relid
), sent AS (
    SELECT publication.pubname::text AS name
      FROM pg_publication AS publication
     WHERE CASE :'event' WHEN 'u' THEN publication.pubupdate WHEN 'd' THEN publication.pubdelete END
       AND (publication.puballtables
            OR EXISTS (SELECT FROM pg_publication_rel AS member
                        WHERE member.prpubid = publication.oid AND member.prrelid IN (SELECT oid FROM family))
            OR EXISTS (SELECT FROM pg_depend AS entry
                         JOIN pg_depend AS its_publication
                           ON its_publication.classid = entry.classid AND its_publication.objid = entry.objid
                          AND its_publication.refclassid = 'pg_publication'::regclass
                        WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace') -- from 15 on
                          AND entry.refclassid = 'pg_namespace'::regclass
                          AND entry.refobjid IN (SELECT namespace FROM family)
                          AND its_publication.refobjid = publication.oid))
)
SELECT (SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = :'relation'::oid) AS is_table,
       -- What each row has in the columns of the mark when it is inserted.
       (SELECT coalesce(jsonb_agg(jsonb_build_array(attname, CASE WHEN filled_with !~* '^\s*null\M' THEN filled_with END,
                                                    is_required)), '[]')::text FROM mark) AS marks,
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
                                            OR EXISTS (SELECT FROM mark WHERE attnum = ANY (tgattr::int2[])))
                                  WHEN 'd' THEN tgtype & 8 <> 0 END
              UNION
             SELECT DISTINCT 'rule ' || quote_ident(rulename) FROM pg_rewrite
              WHERE ev_class IN (SELECT oid FROM tree) AND ev_enabled IN ('O', 'A')
                AND ev_type = CASE :'event' WHEN 'u' THEN '2' WHEN 'd' THEN '4' END
              ORDER BY 1) AS beside_marks;
