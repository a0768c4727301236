-- Partitions that were made or attached since the slot was last acknowledged: what they held before that
-- came under another name, and is not in the stream of the table.
--   psql -v slot=pgoutbox -v relation=16389 -f catch_up/attached.sql
SELECT part.relid::oid AS part, namespace.nspname::text AS schema, relation.relname::text AS name,
       of.xmin::text AS xid, of.cmin::text AS command
  FROM pg_partition_tree(:'relation'::oid) AS part
  JOIN pg_inherits AS of ON of.inhrelid = part.relid
  JOIN pg_class AS relation ON relation.oid = part.relid
  JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace
  JOIN pg_replication_slots AS slot ON slot.slot_name = :'slot'
 -- Transaction ids go round: before is within the half circle behind.
 WHERE (of.xmin::text::bigint - slot.catalog_xmin::text::bigint + 8589934592) % 4294967296 < 2147483648
 ORDER BY part.relid;
