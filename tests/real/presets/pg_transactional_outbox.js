// The library itself: makes its tables, writes messages as an application does, and takes them in as its inbox.
//   node pg_transactional_outbox.js tables outbox > tables.sql
//   node pg_transactional_outbox.js store outbox < message.json     # DATABASE_URL
const { DatabaseSetup, executeTransaction, getDisabledLogger, initializeMessageStorage } = require('pg-transactional-outbox');
const { Pool } = require('pg');

const [verb, outboxOrInbox] = process.argv.slice(2);
const setup = {
  outboxOrInbox,
  database: 'app',
  schema: 'public',
  table: outboxOrInbox,
  listenerRole: 'listener',
  nextMessagesName: `next_${outboxOrInbox}_messages`,
};

async function store() {
  const message = JSON.parse(require('fs').readFileSync(0, 'utf8'));
  const settings = { dbSchema: setup.schema, dbTable: setup.table };
  const put = initializeMessageStorage({ settings, outboxOrInbox }, getDisabledLogger());
  const pool = new Pool({ connectionString: process.env.DATABASE_URL });
  await executeTransaction(await pool.connect(), async (client) => put(message, client));
  await pool.end();
}

if (verb === 'tables') {
  const made = [DatabaseSetup.dropAndCreateTable, DatabaseSetup.createPollingFunction, DatabaseSetup.setupPollingIndexes];
  console.log(made.map((make) => make(setup)).join('\n'));
} else {
  store().catch((error) => { console.error(error); process.exit(1); });
}
