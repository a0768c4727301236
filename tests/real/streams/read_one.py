"""Prints the first message of a stream as rstream reads it: each of its fields, as JSON."""

import asyncio
import json
import os
from datetime import datetime
from urllib.parse import unquote, urlsplit

from rstream import AMQPMessage, Consumer, ConsumerOffsetSpecification, MessageContext, OffsetType, amqp_decoder


async def main() -> None:
    url = urlsplit(os.environ["AMQP_URL"])
    first: asyncio.Future[AMQPMessage] = asyncio.get_running_loop().create_future()

    async def keep(message: AMQPMessage, context: MessageContext) -> None:
        if not first.done():
            first.set_result(message)

    consumer = Consumer(
        host=url.hostname,
        port=int(os.environ["STREAM_PORT"]),
        vhost=unquote(url.path[1:]),
        username=url.username,
        password=url.password,
    )
    await consumer.start()
    await consumer.subscribe(
        stream=os.environ["STREAM"],
        callback=keep,
        decoder=amqp_decoder,
        offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
    )
    message = await asyncio.wait_for(first, 60)
    properties = message.properties
    told = {
        "message_id": plain(properties.message_id),
        "correlation_id": plain(properties.correlation_id),
        "content_type": plain(properties.content_type),
        "content_encoding": plain(properties.content_encoding),
        "reply_to": plain(properties.reply_to),
        "user_id": plain(properties.user_id),
        "creation_time": plain(properties.creation_time),
        "group_id": plain(properties.group_id),
        "annotations": plain(message.message_annotations),
        "application": plain(message.application_properties),
        "body": b"".join(message.body if isinstance(message.body, list) else [message.body]).decode(),
    }
    print(json.dumps(told), flush=True)
    await consumer.close()


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    if isinstance(value, dict):
        return {plain(name): plain(it) for name, it in value.items()}
    return value


asyncio.run(main())
