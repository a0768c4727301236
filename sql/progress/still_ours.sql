-- An error where a later session owns the slot. It stands last in the transaction of what is written
-- outside that of the marks, and the later session waits for its lock before it looks. Where somebody
-- else has a lock on the row, what is committed there tells.
--   $1 name: slot, $2 text: session
WITH held AS MATERIALIZED (
    SELECT session FROM pgoutbox.progress WHERE slot = $1 FOR SHARE SKIP LOCKED
)
SELECT pgoutbox.taken_over($1)
 WHERE coalesce((SELECT session FROM held), (SELECT session FROM pgoutbox.progress WHERE slot = $1))
       <> $2::text::uuid;
