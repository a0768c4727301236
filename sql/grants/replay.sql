-- What `pgoutbox replay` and reconcile.republish read: whole rows. Better given to an operator's
-- own role than to the relay's.
GRANT USAGE ON SCHEMA :"schema" TO :"audit_role";
GRANT SELECT ON :"schema".:"table" TO :"audit_role";
