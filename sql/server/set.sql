-- Sets something for the session: what a server of its version knows besides the options that a
-- connection is begun with, or all of it where a pooler drops those.
--   psql -v name=transaction_timeout -v value=0 -f server/set.sql
SET :"name" = :'value';
