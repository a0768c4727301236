-- What pruning needs beyond grants_*.sql: to the audit role where run prunes (prune.keep), or to
-- a role of its own that `pgoutbox prune` is run as from time to time. UPDATE of a column, since
-- Postgres asks it of FOR UPDATE, which passes over rows that somebody else has locked. To make
-- and drop partitions the table must be one's own: GRANT its owner to the role, or run
-- `pgoutbox prune` as the owner.
GRANT USAGE ON SCHEMA :"schema", pgoutbox TO :"audit_role";
GRANT SELECT (:"id", ctid), UPDATE (:"id"), DELETE ON :"schema".:"table" TO :"audit_role";
GRANT SELECT, DELETE, UPDATE ON pgoutbox.relayed, pgoutbox.parked TO :"audit_role";
