//! What is written of parked events: their parking, the claim before a try, its refusal, and the end
//! of the record once the event is delivered.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_until;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;

use super::{SWITCH, Swept, came, codes, is_told, switch_off};
use crate::bare::id;
use crate::setting::{PATIENCE, Setting};

/// The kinds of writes, the statement of each, and what comes of a row's own error.
const KINDS: [(&str, &str, &str, &str); 4] = [
    ("park", "park: insert", "it is parked without what is refused", "is parked without"),
    ("claim", "park: claim", "its turn is put off", "cannot be tried"),
    ("refused", "park: attempt", "its turn is put off", "is not recorded"),
    (
        "gone",
        "park: delivered",
        "its record stays, and is not tried again",
        "still stands in the parking",
    ),
];

const TRIGGER: &str = "
    CREATE FUNCTION swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_bad(
            CASE TG_OP WHEN 'INSERT' THEN NEW.event_id ELSE OLD.event_id END,
            CASE WHEN TG_OP = 'INSERT' THEN 'park'
                 WHEN TG_OP = 'DELETE' THEN 'gone'
                 WHEN NEW.claimed_at IS NOT NULL AND OLD.claimed_at IS NULL THEN 'claim'
                 WHEN NEW.attempts > OLD.attempts THEN 'refused'
                 ELSE 'other' END);
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;
    CREATE TRIGGER swept BEFORE INSERT OR UPDATE OR DELETE ON pgoutbox.parked
        FOR EACH ROW EXECUTE FUNCTION swept();";

struct World {
    setting: Setting,
    consumer: Consumer,
    relay: Relay,
    codes: Vec<String>,
    expected: usize,
}

impl World {
    async fn new() -> Result<Self> {
        let setting = Setting::bare()
            .await?
            .set("tables.0.name", "events")
            .set("audit.hold", "1s")
            .set("parking.backoff_min", "200ms")
            .set("parking.backoff_max", "1s")
            .set("parking.poll_interval", "1s")
            .set("parking.max_attempts", "100000")
            .set("parking.limit", "100000");
        setting
            .sql(
                "CREATE TABLE events (id text PRIMARY KEY, topic text, payload jsonb DEFAULT '1',
                     aggregate_type text DEFAULT 'order', aggregate_id text, relayed_at timestamptz)",
            )
            .await?;
        setting.init().await?;
        setting.sql(&(SWITCH.to_owned() + TRIGGER)).await?;
        let consumer = setting.bound("good").await?;
        let relay = setting.run()?;
        Ok(Self { setting, consumer, relay, codes: codes(), expected: 0 })
    }

    /// Each with a stranger.
    async fn insert(&mut self) -> Result<()> {
        let client = self.setting.client().await?;
        for code in &self.codes {
            for (kind, ..) in KINDS {
                let (bad, topic) =
                    (format!("{kind}-{code}"), if kind == "gone" { "late" } else { "nobody" });
                let sql = format!(
                    "INSERT INTO events (id, topic, aggregate_id)
                     VALUES ('{bad}', '{topic}', '{bad}'), ('good-{bad}', 'good', NULL)"
                );
                client.batch_execute(&sql).await?;
                self.expected += 1;
            }
        }
        self.setting.is_acknowledged(&self.relay).await
    }

    /// One more behind each, in its aggregate.
    async fn insert_next(&mut self) -> Result<()> {
        let sql = "INSERT INTO events (id, topic, aggregate_id)
                   SELECT 'next-' || id, 'good', aggregate_id FROM events WHERE aggregate_id IS NOT NULL";
        self.setting.sql(sql).await?;
        // Of an event that is parked without its aggregate nothing waits behind it.
        self.expected += self.codes.len();
        self.setting.is_acknowledged(&self.relay).await
    }

    async fn came(&self) -> Result<()> {
        came(&self.consumer, self.expected, &self.relay).await
    }

    async fn bind(&self, key: &str) -> Result<()> {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let channel = self.setting.channel().await?;
        Ok(channel
            .queue_bind("consumer".into(), "outbox".into(), key.into(), options, none)
            .await?)
    }

    async fn others_flow(&mut self) -> Result<()> {
        let sql = "INSERT INTO events (id, topic) VALUES (gen_random_uuid()::text, 'good')";
        self.setting.sql(sql).await?;
        self.expected += 1;
        self.came().await?;
        self.setting.is_acknowledged(&self.relay).await
    }

    /// So many errors were raised.
    async fn raised(&self) -> Result<i64> {
        self.setting.ask("SELECT last_value FROM raised").await
    }

    /// Each aggregate came in its order. One that is parked without its aggregate has none.
    fn is_in_order(&self) -> Result<()> {
        let ids: Vec<String> = self.consumer.deliveries(|all| all.iter().map(id).collect());
        let places: BTreeMap<&str, usize> =
            ids.iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect();
        for code in &self.codes {
            for (kind, ..) in KINDS.into_iter().filter(|(kind, ..)| *kind != "park") {
                let bad = format!("{kind}-{code}");
                let next = format!("next-{bad}");
                let (first, then) = (places.get(bad.as_str()), places.get(next.as_str()));
                ensure!(first.is_some() && first < then, "{bad}: {first:?}, {then:?}");
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn records_of_parked_events() -> Result<()> {
    let mut world = World::new().await?;
    world.insert().await?;
    world.insert_next().await?;
    world.came().await?;
    world.bind("late").await?;
    world.expected += 2 * world.codes.len();
    world.came().await?;
    world.others_flow().await?;
    let (before, since) = (world.raised().await?, std::time::Instant::now());
    wait_until("some tries", PATIENCE, async || Ok(since.elapsed().as_secs() >= 3)).await?;
    let (all, kinds) = (i64::try_from(world.codes.len() * 3)?, world.codes.len() * KINDS.len());
    let more = world.raised().await? - before;
    println!("sweep: records: {before} errors over {kinds} records, then {more} in 3 s");
    ensure!(more <= 3 * all, "{more} errors in 3 s: {}", world.relay.log());
    world.others_flow().await?;
    let mut swept = Swept::default();
    for (_, statement, outcome, says) in KINDS {
        for code in &world.codes {
            is_told(&world.relay, &[&format!("SQLSTATE {code})"), says])?;
            swept.add(statement, outcome, code);
        }
    }
    switch_off(&world.setting).await?;
    world.bind("nobody").await?;
    world.expected += 5 * world.codes.len();
    world.came().await?;
    let setting = &world.setting;
    let is_empty = "SELECT count(*) = 0 FROM pgoutbox.parked";
    setting.until("an empty parking", is_empty).await.with_context(|| world.relay.log())?;
    ensure!(world.consumer.total() == world.expected, "{} came", world.consumer.total());
    ensure!(world.relay.sessions() == 1 && world.relay.is_running(), "{}", world.relay.log());
    world.is_in_order()?;
    world.relay.drain(PATIENCE).await?;
    swept.print();
    Ok(())
}
