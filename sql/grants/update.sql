-- audit.mode = "update": SELECT too, since the statement finds rows by id and by what is unmarked.
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT (:"id", :mark_columns), UPDATE (:mark_columns) ON :"schema".:"table" TO :"audit_role";
