-- A relation and all that it is a partition of, itself first; none where it is gone. Whether the
-- publication has it today, be it as itself or as a partition; and whether it was a partition of an
-- outbox when a transaction wrote to it. Opens no table: it may be locked.
--   psql -v relation=16389 -v xid=750 -v publication=pgoutbox -v tables='[["public", "outbox_messages"]]' -f table/partition_root.sql
WITH family AS (
    SELECT relation.oid, relation.relname, relation.relnamespace, 0 AS depth
      FROM pg_class AS relation WHERE relation.oid = :'relation'::oid
    UNION ALL
    SELECT relation.oid, relation.relname, relation.relnamespace, up.depth::integer
      FROM pg_partition_ancestors(:'relation'::oid) WITH ORDINALITY AS up (relid, depth)
      JOIN pg_class AS relation ON relation.oid = up.relid
     WHERE up.relid <> :'relation'::oid
)
SELECT namespace.nspname::text AS schema, family.relname::text AS name,
       coalesce(publication.puballtables, false)
           OR EXISTS (SELECT FROM pg_publication_rel AS member
                       WHERE member.prpubid = publication.oid AND member.prrelid = family.oid)
           OR EXISTS (SELECT FROM pg_depend AS entry
                        JOIN pg_depend AS its_publication
                          ON its_publication.classid = entry.classid AND its_publication.objid = entry.objid
                         AND its_publication.refclassid = 'pg_publication'::regclass
                       WHERE entry.classid = to_regclass('pg_catalog.pg_publication_namespace') -- from 15 on
                         AND entry.refclassid = 'pg_namespace'::regclass
                         AND entry.refobjid = family.relnamespace
                         AND its_publication.refobjid = publication.oid) AS is_published,
       -- It is older than that transaction, was altered in it or since then, as by DETACH, and has the
       -- columns of an outbox, as a partition must. What says when it was made: its ctid is never altered.
       EXISTS (SELECT FROM pg_class AS relation
                 JOIN pg_attribute AS made ON made.attrelid = relation.oid AND made.attnum = -1
                WHERE relation.oid = :'relation'::oid AND NOT relation.relispartition
                  AND age(made.xmin) > age(:'xid'::xid) AND age(relation.xmin) <= age(:'xid'::xid))
           AND EXISTS (SELECT FROM jsonb_array_elements(:'tables'::jsonb) AS wanted (names)
                         JOIN pg_namespace AS its ON its.nspname = wanted.names ->> 0
                         JOIN pg_class AS outbox
                           ON outbox.relnamespace = its.oid AND outbox.relname = wanted.names ->> 1
                          AND outbox.relkind = 'p'
                        WHERE NOT EXISTS (SELECT FROM (SELECT attname, atttypid FROM pg_attribute
                                                        WHERE attrelid = outbox.oid AND attnum > 0 AND NOT attisdropped) AS a
                                            FULL JOIN (SELECT attname, atttypid FROM pg_attribute
                                                        WHERE attrelid = :'relation'::oid AND attnum > 0 AND NOT attisdropped) AS b
                                           USING (attname, atttypid)
                                           WHERE a IS NULL OR b IS NULL)) AS was_part
  FROM family
  JOIN pg_namespace AS namespace ON namespace.oid = family.relnamespace
  LEFT JOIN pg_publication AS publication ON publication.pubname = :'publication'
 ORDER BY family.depth;
