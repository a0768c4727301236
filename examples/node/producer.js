// Writes orders, each with its event in the same transaction: both are committed, or neither.
//
// npm install pg
const { Client } = require("pg");

const first = Number(process.env.FIRST ?? 1);
const count = Number(process.env.COUNT ?? 20);

async function main() {
  const db = new Client({ connectionString: process.env.DATABASE_URL });
  await db.connect();
  for (let order = first; order < first + count; order++) {
    await db.query("BEGIN");
    try {
      await db.query("INSERT INTO orders (id) VALUES ($1)", [order]);
      await db.query(
        "SELECT pgoutbox.enqueue(topic => 'order.paid', payload => $1, aggregate_type => 'order', aggregate_id => $2)",
        [JSON.stringify({ order, step: 1 }), String(order)],
      );
      await db.query("COMMIT");
    } catch (error) {
      await db.query("ROLLBACK");
      throw error;
    }
  }
  await db.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
