//! Liveness as a property: whatever single thing is wrong with one event, one row, one mark or one
//! table, all others are delivered, once, and acknowledged within a bound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_until;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::setting::Setting;

/// All others have to be delivered, marked and acknowledged so soon, on a busy machine.
const BOUND: Duration = Duration::from_secs(20);
const HUGE: &str = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 100) AS n)";

/// What is wrong: SQL before, columns and values of the bad row, and SQL that is run beside the
/// relay while the others come; it ends by a rollback.
struct Wrong {
    name: &'static str,
    before: &'static str,
    columns: &'static str,
    values: String,
    beside: &'static str,
    after: &'static str,
}

fn event(name: &'static str, columns: &'static str, values: impl Into<String>) -> Wrong {
    Wrong { name, before: "", columns, values: values.into(), beside: "", after: "" }
}

fn row(
    name: &'static str,
    before: &'static str,
    beside: &'static str,
    after: &'static str,
) -> Wrong {
    Wrong { name, before, columns: "topic", values: "'bad.row'".to_owned(), beside, after }
}

const TRIGGER: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON outbox_messages FOR EACH ROW WHEN (OLD.topic = 'bad.row') EXECUTE FUNCTION refuse()";
const NO_TRIGGER: &str = "DROP FUNCTION refuse() CASCADE";

fn wrongs() -> Vec<Wrong> {
    vec![
        event("unroutable", "topic", "'nobody'"),
        event("nacked", "topic", "'full'"),
        event("exchange missing", "topic, event_type", "'good', 'absent'"),
        event("routing key too long", "topic", "repeat('k', 256)"),
        event("routing key empty", "topic", "NULL"),
        event("headers too large", "topic, headers", "'good', jsonb_build_object('h', repeat('x', 131000))"),
        event("headers no object", "topic, headers", "'good', '[1]'"),
        event("header copies", "topic, headers", r#"'good', '{"CC": ["x"]}'"#),
        event("body too large", "topic, payload", "'good', to_jsonb(repeat('x', 20000))"),
        event("time infinite", "topic, occurred_at", "'bad.time', 'infinity'"),
        event("time absurd", "topic, occurred_at", "'bad.time', '294276-12-31'"),
        event("aggregate huge, unroutable", "topic, aggregate_type, aggregate_id", format!("'nobody', 'order', {HUGE}")),
        event("event type huge", "topic, event_type", format!("'good', {HUGE}")),
        row("locked", "", "SELECT FROM outbox_messages WHERE topic = 'bad.row' FOR UPDATE", ""),
        row("deleted", "", "DELETE FROM outbox_messages WHERE topic = 'bad.row'; COMMIT; BEGIN", ""),
        row("trigger raises", TRIGGER, "", NO_TRIGGER),
        row(
            "trigger swallows",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON outbox_messages FOR EACH ROW WHEN (OLD.topic = 'bad.row') EXECUTE FUNCTION refuse()",
            "",
            NO_TRIGGER,
        ),
        row(
            "constraint",
            "ALTER TABLE outbox_messages ADD CONSTRAINT refuses CHECK (topic <> 'bad.row' OR relayed_at IS NULL) NOT VALID",
            "",
            "ALTER TABLE outbox_messages DROP CONSTRAINT refuses",
        ),
        // Last: they stay.
        row("columns of the tries gone", "ALTER TABLE outbox_messages DROP attempt, DROP last_error, DROP failed_at", "", ""),
    ]
}

struct World {
    setting: Setting,
    consumer: Consumer,
    relay: Relay,
    good: usize,
}

impl World {
    async fn start() -> Result<Self> {
        let setting = Setting::bare()
            .await?
            .set("tables.0.exchange", "{event_type} | outbox")
            .set("amqp.max_message_bytes", "16KiB")
            .set("audit.hold", "1s")
            .set("audit.give_up", "10s")
            .set("parking.backoff_min", "1h")
            .set("parking.backoff_max", "1h");
        setting.init().await?;
        let consumer = setting.bound("good").await?;
        let channel = setting.channel().await?;
        for key in ["bad.row", "bad.time"] {
            let options = QueueBindOptions::default();
            channel
                .queue_bind(
                    "consumer".into(),
                    "outbox".into(),
                    key.into(),
                    options,
                    FieldTable::default(),
                )
                .await?;
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("full".into(), options, arguments).await?;
        channel
            .queue_bind(
                "full".into(),
                "outbox".into(),
                "full".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let relay = setting.run()?;
        relay.reaches("running", BOUND).await?;
        Ok(Self { setting, consumer, relay, good: 0 })
    }

    /// Each of twenty transactions has one event of each of five aggregates.
    async fn others(&mut self) -> Result<()> {
        let client = self.setting.client().await?;
        for _ in 0..20 {
            client
                .batch_execute(
                    "INSERT INTO outbox_messages (topic, payload, aggregate_type, aggregate_id)
                     SELECT 'good', '{}', 'other', n::text FROM generate_series(1, 5) AS n",
                )
                .await?;
        }
        self.good += 100;
        Ok(())
    }

    fn came(&self, key: &str) -> usize {
        self.consumer.deliveries(|all| all.iter().filter(|it| it.routing_key == key).count())
    }

    async fn bear(&mut self, wrong: &Wrong) -> Result<()> {
        let Wrong { before, columns, values, beside, after, .. } = wrong;
        let sessions = self.relay.sessions();
        self.setting.sql(before).await?;
        let client = self.setting.client().await?;
        self.others().await?;
        let payload = if columns.contains("payload") { ["", ""] } else { [", payload", ", '{}'"] };
        let [column, value] = payload;
        let insert =
            format!("INSERT INTO outbox_messages ({columns}{column}) VALUES ({values}{value})");
        // So that it has not marked the row before that happens to it.
        self.relay.sigstop()?;
        client.batch_execute(&insert).await.context(insert)?;
        client.batch_execute(&format!("BEGIN; {beside}")).await?;
        self.relay.sigcont()?;
        self.others().await?;
        let since = Instant::now();
        let lsn: String = self.setting.ask("SELECT pg_current_wal_lsn()::text").await?;
        let is_done = format!(
            "SELECT (SELECT count(*) = 0 FROM outbox_messages WHERE topic = 'good' AND event_type IS NULL
                        AND aggregate_type = 'other' AND relayed_at IS NULL)
                AND (SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{}')",
            self.setting.database
        );
        self.setting.until("the others", &is_done).await?;
        let took = since.elapsed();
        ensure!(took < BOUND, "they took {took:?}");
        let came = self.came("good");
        // What was in flight when the broker closed the channel comes once more.
        let repeats = came.saturating_sub(self.good);
        ensure!(repeats <= 1_000, "{repeats} repeats");
        let more = self.relay.sessions() - sessions;
        ensure!(more <= 3, "{more} sessions more");
        client.batch_execute("ROLLBACK").await?;
        self.setting.sql(after).await
    }
}

#[tokio::test]
async fn one_wrong_thing_stops_nothing_else() -> Result<()> {
    let mut world = World::start().await?;
    for wrong in wrongs() {
        let since = Instant::now();
        let outcome = world.bear(&wrong).await;
        outcome.with_context(|| format!("{}\n{}", wrong.name, world.relay.log()))?;
        println!("{}: {:?}", wrong.name, since.elapsed());
    }
    // And a whole table, locked for a while.
    let holder = world.setting.client().await?;
    world.others().await?;
    holder.batch_execute("BEGIN; LOCK TABLE outbox_messages IN ACCESS EXCLUSIVE MODE").await?;
    let since = Instant::now();
    wait_until("some tries", BOUND, async || Ok(since.elapsed() > Duration::from_secs(2))).await?;
    holder.batch_execute("COMMIT").await?;
    world.others().await?;
    let all = "SELECT count(*) = 0 FROM outbox_messages WHERE aggregate_type = 'other' AND relayed_at IS NULL";
    world.setting.until("the marks", all).await.with_context(|| world.relay.log())?;
    world.relay.drain(BOUND).await
}
