"""Takes events from RabbitMQ, and does the work of each once.

The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a repeat finds
its id there. A process that is killed loses nothing: what it did not acknowledge comes again.

pip install pika 'psycopg[binary]'
"""
import json
import os

import pika
import psycopg

QUEUES = os.environ.get("QUEUES", "orders").split(",")
# How often an event is tried again by way of the queue that waits; 0: at once, until the queue's own limit.
RETRIES = int(os.environ.get("RETRIES", "0"))
DEAD_LETTERS = os.environ.get("DEAD_LETTERS", "orders.dead")


def work(db, event):
    db.execute("INSERT INTO shipments (order_id, step) VALUES (%s, %s)", (event["order"], event["step"]))


def once(db, message_id, event):
    with db.transaction():
        new = db.execute("INSERT INTO inbox (message_id) VALUES (%s) ON CONFLICT DO NOTHING", (message_id,))
        if new.rowcount == 1:
            work(db, event)


def tries(properties):
    deaths = (properties.headers or {}).get("x-death", [])
    return sum(death["count"] for death in deaths if death["reason"] == "rejected")


def failed(channel, method, properties, body):
    # Rejected, not given back by basic.nack: from RabbitMQ 4.3 on that does not count as a try.
    if RETRIES == 0:
        channel.basic_reject(method.delivery_tag, requeue=True)
    elif tries(properties) < RETRIES:
        channel.basic_reject(method.delivery_tag, requeue=False)
    else:
        # Confirmed before it is acknowledged here; it raises where the queue is missing.
        channel.basic_publish("", DEAD_LETTERS, body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)


with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()
    channel.confirm_delivery()
    channel.basic_qos(prefetch_count=20)

    def take(channel, method, properties, body):
        try:
            once(db, properties.message_id, json.loads(body))
        except psycopg.OperationalError:
            # No fault of the event: end, and be started again.
            raise
        except Exception as error:
            print(f"event {properties.message_id} failed: {error}", flush=True)
            failed(channel, method, properties, body)
        else:
            channel.basic_ack(method.delivery_tag)

    for queue in QUEUES:
        channel.basic_consume(queue, take)
    channel.start_consuming()
