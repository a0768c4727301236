-- Events are delivered again: what kept them from it is over.
--   psql -v slot=pgoutbox -f progress/clear_fault.sql
UPDATE pgoutbox.progress SET fault = NULL, fault_at = NULL
 WHERE slot = :'slot' AND fault IS NOT NULL;
