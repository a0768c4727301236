-- audit.mode = "delete".
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT (:"id"), DELETE ON :"schema".:"table" TO :"audit_role";
