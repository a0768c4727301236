-- Marks delivered events in a table beside the outbox: a quarter of the WAL of a mark in the
-- row. All ids are answered, whether or not they were marked before.
--   $1 text[]: ids
WITH marked AS (
    INSERT INTO pgoutbox.relayed (outbox, id)
    SELECT :'relation'::oid::regclass, id FROM unnest($1::text[]) AS id
        ON CONFLICT DO NOTHING
)
SELECT unnest($1::text[]);
