-- postgres.on_slot_loss = "catch_up": rows are read from the table where the slot is gone.
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT ON :"schema".:"table" TO :"audit_role";
