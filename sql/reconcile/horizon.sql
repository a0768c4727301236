-- Which rows a relay has had its chance at, in two halves: every transaction before xmin has
-- ended, and the commit of each stands in the WAL before lsn, since the snapshot is taken before
-- lsn is read. Once the slot has passed lsn, every such row was settled. Not the flush LSN: with
-- synchronous_commit = off a commit is seen before it is flushed.
SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::bigint % 4294967296)::text AS xmin,
       pg_current_wal_insert_lsn()::text AS lsn;
