-- audit.mode = "side_table": nothing on the outbox itself.
GRANT SELECT, INSERT ON pgoutbox.relayed TO :"audit_role";
