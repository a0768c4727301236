"""Writes orders, each with its event in the same transaction: both are committed, or neither.

pip install 'psycopg[binary]'
"""
import json
import os

import psycopg

FIRST, COUNT = int(os.environ.get("FIRST", "1")), int(os.environ.get("COUNT", "20"))

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
    for order in range(FIRST, FIRST + COUNT):
        with db.transaction():
            db.execute("INSERT INTO orders (id) VALUES (%s)", (order,))
            db.execute(
                "SELECT pgoutbox.enqueue(topic => 'order.paid', payload => %s, aggregate_type => 'order', aggregate_id => %s)",
                (json.dumps({"order": order, "step": 1}), str(order)),
            )
