-- Which of some events are parked, or were: they are not to be marked.
--   $1 oid: outbox, $2 text[]: ids
SELECT event_id FROM pgoutbox.parked WHERE outbox = $1::oid::regclass AND event_id = ANY ($2);
