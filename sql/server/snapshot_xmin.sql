-- Every transaction before this one has ended, for every snapshot taken from now on.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
