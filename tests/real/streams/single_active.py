"""Consumes a super stream, of each partition as its single active consumer. What an event does and the offset behind
it are written in one transaction, so that whoever goes on after a kill goes on right there."""

import asyncio
import os
from urllib.parse import unquote, urlsplit

import psycopg
from rstream import AMQPMessage, MessageContext, OffsetSpecification, OffsetType, SuperStreamConsumer, amqp_decoder


async def main() -> None:
    url = urlsplit(os.environ["AMQP_URL"])
    name = os.environ["SUPER_STREAM"]
    database = await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"], autocommit=True)
    one_at_a_time = asyncio.Lock()

    begins: dict[str, int] = {}

    async def handle(message: AMQPMessage, context: MessageContext) -> None:
        # The broker sends whole chunks: what comes before the offset that was asked for too.
        if context.offset < begins.get(context.stream, 0):
            return
        properties = message.application_properties
        aggregate = properties[b"aggregate_id"] if b"aggregate_id" in properties else properties["aggregate_id"]
        async with one_at_a_time, database.transaction():
            await database.execute(
                # Of one that is killed the last transaction may be committed after we asked for its offset.
                """INSERT INTO handled (message_id, aggregate_id, consumer) VALUES (%s, %s, %s)
                   ON CONFLICT (message_id) DO NOTHING""",
                (text(message.properties.message_id), text(aggregate), os.getpid()),
            )
            await database.execute(
                """INSERT INTO offsets AS known (stream, next) VALUES (%s, %s)
                   ON CONFLICT (stream) DO UPDATE SET next = greatest(known.next, excluded.next)""",
                (context.stream, context.offset + 1),
            )

    async def become_active(is_active: bool, context) -> OffsetSpecification:
        async with one_at_a_time:
            rows = await database.execute("SELECT next FROM offsets WHERE stream = %s", (context.stream,))
            row = await rows.fetchone()
        print("active" if is_active else "passive", context.stream, row, flush=True)
        begins[context.stream] = row[0] if row else 0
        return OffsetSpecification(OffsetType.OFFSET, begins[context.stream])

    consumer = SuperStreamConsumer(
        host=url.hostname,
        port=int(os.environ["STREAM_PORT"]),
        vhost=unquote(url.path[1:]),
        username=url.username,
        password=url.password,
        super_stream=name,
    )
    await consumer.start()
    await consumer.subscribe(
        callback=handle,
        decoder=amqp_decoder,
        properties={"single-active-consumer": "true", "name": "shop", "super-stream": name},
        consumer_update_listener=become_active,
    )
    await consumer.run()


def text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


asyncio.run(main())
