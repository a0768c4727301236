-- What catch_up/try.sql is run with, in one message, and so one transaction, without BEGIN: it sees what the
-- list sees, and nothing is left behind where it fails.
--   :'snapshot': as in catch_up/open.sql
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET TRANSACTION SNAPSHOT :'snapshot';
SET LOCAL statement_timeout = 0;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = ISO;
SET LOCAL bytea_output = hex;
SET LOCAL intervalstyle = iso_8601;
SET LOCAL extra_float_digits = 1;
