-- audit.mode = "delete". UPDATE of a column too: Postgres asks it of FOR UPDATE, which passes over
-- rows that somebody else has locked.
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT (:"id"), UPDATE (:"id"), DELETE ON :"schema".:"table" TO :"audit_role";
