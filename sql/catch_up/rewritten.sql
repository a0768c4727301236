-- Tables that a transaction has written anew since another one, or since the slot was last acknowledged: SET LOGGED
-- brings rows that are in no WAL, and leaves no other trace. All rows are then of that transaction, as the indexes and
-- the TOAST table are, which no GRANT alters. VACUUM FULL and CLUSTER leave rows to the transactions that wrote them.
--   psql -v slot=pgoutbox -v relations='{16389}' -v since= -f catch_up/rewritten.sql
WITH RECURSIVE tree (root, relid) AS (      -- pg_partition_tree waits for locks
    SELECT root, root FROM unnest(:'relations'::oid[]) AS root
     UNION
    SELECT tree.root, link.inhrelid FROM tree JOIN pg_inherits AS link ON link.inhparent = tree.relid
)
SELECT tree.root, part.oid AS part, namespace.nspname::text AS schema, part.relname::text AS name,
       own.xid, max(own.command)::text AS command
  FROM tree
  JOIN pg_class AS part ON part.oid = tree.relid AND part.relkind = 'r'
        -- A file that is as it was made has the number of its table.
        AND part.relfilenode <> part.oid
  JOIN pg_namespace AS namespace ON namespace.oid = part.relnamespace
  JOIN pg_replication_slots AS slot ON slot.slot_name = :'slot'
 CROSS JOIN LATERAL (
       SELECT it.xmin::text AS xid, it.cmin::text::bigint AS command
         FROM pg_class AS it
        WHERE it.oid = part.oid OR it.oid = part.reltoastrelid
           OR it.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = part.oid)) AS own
 -- Transaction ids go round: before is within the half circle behind.
 WHERE (own.xid::bigint - coalesce(nullif(:'since', ''), slot.catalog_xmin::text)::bigint + 8589934592) % 4294967296 < 2147483648
 GROUP BY tree.root, part.oid, namespace.nspname, part.relname, own.xid
 ORDER BY part.oid, own.xid;
