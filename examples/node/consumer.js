// Takes events from RabbitMQ, and does the work of each once.
//
// The inbox has the ids of the messages whose work is done, and is written in the transaction of the work: a repeat
// finds its id there. A process that is killed loses nothing: what it did not acknowledge comes again.
//
// npm install amqplib pg
const amqp = require("amqplib");
const { Client } = require("pg");

const queues = (process.env.QUEUES ?? "orders").split(",");

async function work(db, event) {
  await db.query("INSERT INTO shipments (order_id, step) VALUES ($1, $2)", [event.order, event.step]);
}

async function once(db, messageId, event) {
  await db.query("BEGIN");
  try {
    const inserted = await db.query("INSERT INTO inbox (message_id) VALUES ($1) ON CONFLICT DO NOTHING", [messageId]);
    if (inserted.rowCount === 1) await work(db, event);
    await db.query("COMMIT");
  } catch (error) {
    await db.query("ROLLBACK");
    throw error;
  }
}

async function main() {
  const db = new Client({ connectionString: process.env.DATABASE_URL });
  await db.connect();
  const connection = await amqp.connect(process.env.AMQP_URL);
  const channel = await connection.createChannel();
  await channel.prefetch(20);
  // One after the other: callbacks that wait would overtake each other.
  let last = Promise.resolve();
  const take = (message) => {
    if (message === null) die(new Error("the queue was deleted"));
    last = last.then(async () => {
      try {
        await once(db, message.properties.messageId, JSON.parse(message.content));
        channel.ack(message);
      } catch (error) {
        console.log(`event ${message.properties.messageId} failed: ${error.message}`);
        // Again at once, until the queue's own limit. (nack does not count as a try from RabbitMQ 4.3 on.)
        channel.reject(message, true);
      }
    }).catch(die);
  };
  for (const queue of queues) await channel.consume(queue, take);
  // No fault of an event: end, and be started again.
  for (const end of [db, connection, channel]) end.on("error", die);
  connection.on("close", () => die(new Error("the broker closed the connection")));
}

function die(error) {
  console.error(error);
  process.exit(1);
}

main().catch(die);
