-- A function that writes one event into the outbox and refuses nonsense, for any language:
--   SELECT pgoutbox.enqueue('orders.paid', '{"order": 7}');
--   SELECT pgoutbox.enqueue(topic => 'orders.paid', payload => '{"order": 7}',
--                           aggregate_type => 'order', aggregate_id => '7');
-- It has the rights of its caller: USAGE on schema pgoutbox, and INSERT and SELECT (id) on the
-- table. Make it with:
--   psql -v schema=public -v table=outbox_messages -f init/enqueue.sql
BEGIN;
-- psql does not look into the dollar quotes below; a setting takes the names there.
SELECT set_config('pgoutbox.outbox', format('%I.%I', :'schema'::text, :'table'::text), true);
DO $do$
BEGIN
EXECUTE replace($sql$
CREATE OR REPLACE FUNCTION pgoutbox.enqueue(
    topic          text,
    payload        jsonb,
    aggregate_type text    DEFAULT NULL,
    aggregate_id   text    DEFAULT NULL,
    event_type     text    DEFAULT NULL,
    headers        jsonb   DEFAULT '{}',
    id             uuid    DEFAULT NULL,  -- to choose it; else the column's default
    allow_scalar   boolean DEFAULT false  -- let a bare string, number, boolean or null pass
) RETURNS uuid LANGUAGE plpgsql SECURITY INVOKER AS $enqueue$
#variable_conflict use_variable
DECLARE
    bad text;
    new_id uuid;
BEGIN
    IF topic IS NULL OR btrim(topic, E' \t\r\n') = '' THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: topic is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The topic becomes the routing key.';
    ELSIF octet_length(topic) > 255 THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: topic has % bytes', octet_length(topic)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'A routing key has at most 255 bytes.';
    ELSIF payload IS NULL THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: payload is null'
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF NOT coalesce(allow_scalar, false) AND jsonb_typeof(payload) NOT IN ('object', 'array') THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: payload is a bare %', jsonb_typeof(payload)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass an object or an array, or say allow_scalar => true.';
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: headers is not an object'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT key INTO bad FROM jsonb_object_keys(headers) AS key
     WHERE key IN ('CC', 'BCC') OR octet_length(key) > 255 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'pgoutbox.enqueue: header % is not allowed', left(bad, 32)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'RabbitMQ routes by CC and BCC; a header name has at most 255 bytes.';
    END IF;
    IF id IS NOT NULL THEN
        INSERT INTO {outbox} (id, topic, payload, aggregate_type, aggregate_id, event_type, headers)
        VALUES (id, topic, payload, aggregate_type, aggregate_id, event_type,
                coalesce(headers, '{}'));
        RETURN id;
    END IF;
    INSERT INTO {outbox} AS outbox (topic, payload, aggregate_type, aggregate_id, event_type, headers)
    VALUES (topic, payload, aggregate_type, aggregate_id, event_type, coalesce(headers, '{}'))
    RETURNING outbox.id INTO new_id;
    RETURN new_id;
END
$enqueue$
$sql$, '{outbox}', current_setting('pgoutbox.outbox'));
END
$do$;
COMMENT ON FUNCTION pgoutbox.enqueue IS 'Writes one event into the outbox; returns its id.';
COMMIT;
