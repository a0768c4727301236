-- How much WAL there is on the server's disk. Needs membership in pg_monitor.
SELECT sum(size)::bigint AS bytes FROM pg_ls_waldir();
