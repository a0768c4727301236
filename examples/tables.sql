-- What the examples write to: the producer's table, and the consumer's two, which may be in another database.
CREATE TABLE orders (
    id bigint PRIMARY KEY
);
CREATE TABLE inbox (
    message_id  text        PRIMARY KEY,                -- of each event whose work is done
    received_at timestamptz NOT NULL DEFAULT now()      -- delete what is older than a repeat can be
);
CREATE TABLE shipments (
    seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint NOT NULL,
    step     bigint NOT NULL CHECK (step >= 0)
);
