"""Reads messages, a line each, by the official SDK, and prints what it makes of them."""
import json
import sys
from datetime import datetime

from cloudevents.core.bindings import amqp, rabbitmq


def read(message):
    body, content_type, headers = bytes.fromhex(message["body"]), message["content_type"], message["headers"]
    if message["binding"] == "rabbitmq":
        return rabbitmq.from_rabbitmq_event(rabbitmq.RabbitMQMessage(headers, content_type, body))
    properties = {"content-type": content_type}
    return amqp.from_amqp_event(amqp.AMQPMessage(properties, headers, body))


def shown(value):
    if isinstance(value, datetime):
        return value.isoformat()
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


for line in sys.stdin:
    event = read(json.loads(line))
    attributes = {name: shown(value) for name, value in event.get_attributes().items()}
    print(json.dumps({"attributes": attributes, "data": shown(event.get_data())}), flush=True)
