-- Which of these slots nobody reads, by their number in the list.
--   psql -v slots='["pgoutbox_0of2", "pgoutbox_1of2"]' -f shards/free.sql
SELECT (asked.number - 1)::integer AS number
  FROM jsonb_array_elements_text(:'slots'::jsonb) WITH ORDINALITY AS asked (slot, number)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots AS slot WHERE slot.slot_name = asked.slot AND slot.active)
 ORDER BY asked.number;
