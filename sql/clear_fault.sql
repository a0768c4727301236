-- A session runs: what kept it from running is over. An event that it is stuck on is not over
-- before it is passed.
--   $1 name: slot
UPDATE pgoutbox.progress SET fault = NULL, fault_at = NULL
 WHERE slot = $1 AND fault IS NOT NULL AND fault ->> 'class' <> 'event';
