-- audit.mode = "update": SELECT too, since the statement finds rows by id and by what is unmarked.
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT (:"id", :"relayed_at"), UPDATE (:"relayed_at") ON :"schema".:"table" TO :"audit_role";
