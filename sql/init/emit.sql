-- Functions that write one event into the WAL alone, without a table: a transactional message, whose
-- prefix the configuration names under "messages". One for each form of a payload:
--   SELECT pgoutbox.emit('orders', jsonb '{"order": 7}', topic => 'orders.paid');
--   SELECT pgoutbox.emit('orders', '{"order": 7}', aggregate_type => 'order', aggregate_id => '7',
--                        event_type => 'paid');                       -- a text: sent as it is written
--   SELECT pgoutbox.emit('orders', bytea '\x00ff', topic => 'orders.scan', content_type => 'image/png');
-- The id comes back; without one of yours it is a new uuid. An event of a transaction that is rolled back
-- is never sent. Whoever may connect may call them, or write such a message without them.
--   psql -f init/emit.sql
BEGIN;
-- What they have in common. The body is an object with the payload in one of its forms.
CREATE OR REPLACE FUNCTION pgoutbox.emit_envelope(
    prefix text, body jsonb, topic text, aggregate_type text, aggregate_id text, event_type text,
    headers jsonb, id text, occurred_at timestamptz, correlation_id text, content_type text
) RETURNS text LANGUAGE plpgsql SECURITY INVOKER AS $emit$
#variable_conflict use_variable
DECLARE
    bad text;
BEGIN
    id := coalesce(id, gen_random_uuid()::text);
    IF prefix IS NULL OR prefix = '' THEN
        RAISE EXCEPTION 'pgoutbox.emit: prefix is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is one of those under [[messages]] in the configuration of pgoutbox.';
    ELSIF body IS NULL THEN
        RAISE EXCEPTION 'pgoutbox.emit: payload is null'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF octet_length(id) > 255 THEN
        RAISE EXCEPTION 'pgoutbox.emit: id has % bytes', octet_length(id)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A message_id has at most 255 bytes.';
    ELSIF octet_length(topic) > 255 THEN
        RAISE EXCEPTION 'pgoutbox.emit: topic has % bytes', octet_length(topic)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A routing key has at most 255 bytes.';
    ELSIF NOT isfinite(occurred_at) THEN
        RAISE EXCEPTION 'pgoutbox.emit: occurred_at is infinite'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'pgoutbox.emit: headers is not an object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT key INTO bad FROM jsonb_object_keys(headers) AS key
     WHERE key IN ('CC', 'BCC') OR octet_length(key) > 255 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'pgoutbox.emit: header % is not allowed', left(bad, 32)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'RabbitMQ routes by CC and BCC; a header name has at most 255 bytes.';
    END IF;
    -- The server converts no content, and an envelope is UTF-8.
    PERFORM pg_logical_emit_message(true, prefix, convert_to((body || jsonb_build_object(
        'id', id, 'topic', topic, 'aggregate_type', aggregate_type, 'aggregate_id', aggregate_id,
        'event_type', event_type, 'headers', headers, 'occurred_at', occurred_at,
        'correlation_id', correlation_id, 'content_type', content_type))::text, 'UTF8'));
    RETURN id;
END
$emit$;
COMMENT ON FUNCTION pgoutbox.emit_envelope IS 'Writes an envelope as a transactional message; returns its id.';

-- A payload as the member of an envelope that has it in this form; null is no payload.
CREATE OR REPLACE FUNCTION pgoutbox.emit_payload(payload jsonb) RETURNS jsonb LANGUAGE sql STABLE STRICT AS $emit$
    SELECT jsonb_build_object('payload', payload)
$emit$;
CREATE OR REPLACE FUNCTION pgoutbox.emit_payload(payload text) RETURNS jsonb LANGUAGE sql STABLE STRICT AS $emit$
    SELECT jsonb_build_object('payload_text', payload)
$emit$;
CREATE OR REPLACE FUNCTION pgoutbox.emit_payload(payload bytea) RETURNS jsonb LANGUAGE sql STABLE STRICT AS $emit$
    -- Postgres breaks Base64 into lines.
    SELECT jsonb_build_object('payload_base64', translate(encode(payload, 'base64'), E'\n', ''))
$emit$;

-- pgoutbox.emit, once for each form.
DO $do$
DECLARE
    form record;
BEGIN
FOR form IN
    SELECT * FROM (VALUES ('jsonb', NULL, 'JSON as its payload'),
                          ('text',  NULL, 'a text as its payload, sent as it is written'),
                          ('bytea', 'application/octet-stream', 'bytes as its payload')) AS form (type, content_type, what)
LOOP
EXECUTE format($sql$
CREATE OR REPLACE FUNCTION pgoutbox.emit(
    prefix         text,
    payload        %1$s,
    topic          text        DEFAULT NULL,
    aggregate_type text        DEFAULT NULL,
    aggregate_id   text        DEFAULT NULL,
    event_type     text        DEFAULT NULL,
    headers        jsonb       DEFAULT NULL,
    id             text        DEFAULT NULL,  -- to choose it; else a new uuid
    occurred_at    timestamptz DEFAULT NULL,  -- else the time of the commit
    correlation_id text        DEFAULT NULL,
    content_type   text        DEFAULT %2$L
) RETURNS text LANGUAGE sql VOLATILE SECURITY INVOKER AS $emit$
    SELECT pgoutbox.emit_envelope(
        prefix, pgoutbox.emit_payload(payload), topic, aggregate_type, aggregate_id, event_type,
        headers, id, occurred_at, correlation_id, content_type)
$emit$;
COMMENT ON FUNCTION pgoutbox.emit(text, %1$s, text, text, text, text, jsonb, text, timestamptz, text, text) IS %3$L
$sql$, form.type, form.content_type, format('Emits one event with %s; returns its id.', form.what));
END LOOP;
END
$do$;
COMMIT;
