"""Prints the ids of a stream's messages with a filter value, as rstream asks the broker for them: as many as are wanted."""

import asyncio
import json
import os
from urllib.parse import unquote, urlsplit

from rstream import (
    AMQPMessage,
    Consumer,
    ConsumerOffsetSpecification,
    FilterConfiguration,
    MessageContext,
    OffsetType,
    amqp_decoder,
)


async def main() -> None:
    url = urlsplit(os.environ["AMQP_URL"])
    wanted = int(os.environ["WANTED"])
    ids: list[str] = []
    done = asyncio.Event()

    async def keep(message: AMQPMessage, context: MessageContext) -> None:
        ids.append(message.properties.message_id)
        if len(ids) >= wanted:
            done.set()

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
        filter_input=FilterConfiguration(
            values_to_filter=[os.environ["FILTER"]],
            match_unfiltered=os.environ["UNFILTERED"] == "true",
        ),
    )
    await asyncio.wait_for(done.wait(), 60)
    print(json.dumps([plain(it) for it in ids]), flush=True)
    await consumer.close()


def plain(value):
    return value.decode() if isinstance(value, bytes) else value


asyncio.run(main())
