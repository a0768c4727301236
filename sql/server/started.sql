-- When the server was started, in microseconds since 1970.
SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS started;
