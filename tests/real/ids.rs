//! Ids that tell no row apart: several rows have one, or none at all. With every kind of mark, through
//! everything that becomes of an event, each row is accounted for by itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::consumer::{Consumer, Delivery};
use harness::relay::Relay;
use harness::wait_for;
use serde_json::Value;

use crate::setting::{PATIENCE, Setting};

struct World {
    mode: &'static str,
    setting: Setting,
    consumer: Consumer,
    /// Rows that were written and that have an id: what each is told by is its number.
    written: Vec<i64>,
    /// Rows without an id.
    nameless: i64,
    next: i64,
    /// What is counted: numbers from here on, of deliveries from here on.
    from: (i64, usize),
}

impl World {
    async fn new(mode: &'static str) -> Result<Self> {
        let setting = Setting::bare()
            .await?
            .set("audit.mode", mode)
            .set("tables.0.name", "events")
            .set("parking.backoff_min", "1h")
            .set("parking.backoff_max", "2h")
            .set("parking.limit", "100000")
            .set("session.backoff_max", "300ms");
        setting
            .sql(
                "CREATE TABLE events (id text, topic text, payload jsonb, aggregate_type text DEFAULT 'order', aggregate_id text,
                     occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)",
            )
            .await?;
        setting.init().await?;
        let consumer = setting.bound("here").await?;
        Ok(Self {
            mode,
            setting,
            consumer,
            written: Vec::new(),
            nameless: 0,
            next: 0,
            from: (0, 0),
        })
    }

    /// Rows of one transaction: id, topic, aggregate.
    async fn insert(&mut self, rows: &[(Option<&str>, &str, &str)]) -> Result<()> {
        let mut values = Vec::new();
        for (id, topic, aggregate) in rows {
            self.next += 1;
            let n = self.next;
            let id = id.map_or("NULL".to_owned(), |id| format!("'{id}'"));
            values.push(format!("({id}, '{topic}', '{n}', '{aggregate}')"));
            match id.as_str() {
                "NULL" => self.nameless += 1,
                _ => self.written.push(n),
            }
        }
        let values = values.join(", ");
        let sql = format!("INSERT INTO events (id, topic, payload, aggregate_id) VALUES {values}");
        self.setting.sql(&sql).await
    }

    /// How often each number came that is counted.
    fn came(&self) -> BTreeMap<i64, usize> {
        let (first, deliveries) = self.from;
        let mut came = BTreeMap::new();
        let numbers = self.consumer.deliveries(|all| all.iter().map(number).collect::<Vec<_>>());
        for n in numbers.into_iter().skip(deliveries).filter(|n| *n >= first) {
            *came.entry(n).or_default() += 1;
        }
        came
    }

    /// Waits until all that were written came, and none that were not.
    async fn all_came(&self, stage: &str, relay: &Relay) -> Result<()> {
        let what = format!("{} {stage}", self.mode);
        wait_for(&what, PATIENCE, async || {
            let came = self.came();
            let missing: Vec<_> = self.written.iter().filter(|n| !came.contains_key(n)).collect();
            ensure!(missing.is_empty(), "missing {missing:?}");
            ensure!(came.len() == self.written.len(), "too many: {came:?}");
            Ok(Some(()))
        })
        .await
        .with_context(|| relay.log())
    }

    /// As [`all_came`](Self::all_came), and each once.
    async fn each_once(&self, stage: &str, relay: &Relay) -> Result<()> {
        self.all_came(stage, relay).await?;
        let came = self.came();
        let again: Vec<_> = came.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(
            again.is_empty(),
            "{} {stage}: more than once: {again:?}\n{}",
            self.mode,
            relay.log()
        );
        Ok(())
    }

    async fn parked(&self, stage: &str, count: i64, relay: &Relay) -> Result<()> {
        let sql =
            format!("SELECT count(*) = {count} FROM pgoutbox.parked WHERE state <> 'delivered'");
        let parked = self.setting.until(&format!("{stage}: {count} parked"), &sql).await;
        parked.with_context(|| format!("{} {stage}\n{}", self.mode, relay.log()))
    }

    /// Every row with an id has its mark, in whatever way.
    async fn marked(&self, stage: &str, relay: &Relay) -> Result<()> {
        let (all, nameless) = (self.written.len(), self.nameless);
        let sql = match self.mode {
            "update" => format!("SELECT count(*) = {all} FROM events WHERE relayed_at IS NOT NULL"),
            "side_table" => format!("SELECT count(*) = {all} FROM pgoutbox.relayed"),
            "delete" => format!("SELECT count(*) = {nameless} FROM events"),
            _ => return Ok(()),
        };
        let marked = self.setting.until("all marks", &sql).await;
        marked.with_context(|| format!("{} {stage}\n{}", self.mode, relay.log()))
    }

    async fn streams(&mut self) -> Result<()> {
        let relay = self.setting.run()?;
        self.insert(&[
            (Some("twin"), "here", "a"),
            (Some("twin"), "here", "b"),
            (None, "here", "c"),
            (Some("one"), "here", "d"),
            (None, "here", "e"),
        ])
        .await?;
        self.each_once("stream", &relay).await?;
        self.parked("stream", self.nameless, &relay).await?;
        self.marked("stream", &relay).await?;
        relay.drain(PATIENCE).await
    }

    /// Twenty ids, each of fifteen rows, in one transaction, and the relay is killed within it.
    async fn is_killed(&mut self) -> Result<()> {
        let ids: Vec<String> = (0..300).map(|n| format!("shared {}", n % 20)).collect();
        let rows: Vec<_> = ids.iter().map(|id| (Some(id.as_str()), "here", "f")).collect();
        let before = self.written.len();
        let relay = self.setting.run()?;
        self.insert(&rows).await?;
        wait_for("some of them", PATIENCE, async || Ok((self.came().len() > before).then_some(())))
            .await
            .with_context(|| relay.log())?;
        relay.kill9().await?;
        let relay = self.setting.run()?;
        // All may have come before it was killed.
        relay.reaches("running", PATIENCE).await?;
        self.all_came("restart", &relay).await?;
        self.marked("restart", &relay).await?;
        let all = self.consumer.deliveries(|all| all.iter().map(number).collect::<Vec<_>>());
        let mut last = 0;
        for n in &all {
            ensure!(*n <= last + 1, "{}: {n} came before {}: {all:?}", self.mode, last + 1);
            last = last.max(*n);
            // Those without an id, which never come.
            while [3, 5].contains(&(last + 1)) {
                last += 1;
            }
        }
        relay.drain(PATIENCE).await
    }

    async fn parks(&mut self) -> Result<()> {
        // What came before may have come more than once.
        self.from = (self.next + 1, 0);
        let (past, parked) = (std::mem::take(&mut self.written), self.nameless);
        let relay = self.setting.run()?;
        self.insert(&[(Some("twin"), "nowhere", "g"), (Some("twin"), "nowhere", "h")]).await?;
        self.parked("parking", parked + 2, &relay).await?;
        self.insert(&[(Some("twin"), "here", "g"), (Some("twin"), "here", "i")]).await?;
        self.parked("parking behind", parked + 3, &relay).await?;
        self.setting.bind("nowhere").await?;
        self.setting.program.succeed(&["parked", "retry", "--all"]).await?;
        self.each_once("retry", &relay).await?;
        self.parked("after the retry", parked, &relay).await?;
        let order = self.consumer.deliveries(|all| all.iter().map(number).collect::<Vec<_>>());
        let place = |of: usize| order.iter().position(|n| *n == self.written[of]);
        ensure!(place(0) < place(2), "{}: {order:?}", self.mode);
        self.written.splice(0..0, past);
        self.marked("retry", &relay).await?;
        relay.drain(PATIENCE).await
    }

    async fn catches_up(&mut self) -> Result<()> {
        let relay = self.setting.run()?;
        relay.reaches("running", PATIENCE).await?;
        relay.drain(PATIENCE).await?;
        self.from = (self.next + 1, 0);
        let past = std::mem::take(&mut self.written);
        self.setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        self.insert(&[
            (Some("twin"), "here", "j"),
            (Some("twin"), "here", "j"),
            (None, "here", "k"),
        ])
        .await?;
        self.insert(&[(Some("one"), "here", "l"), (Some("new"), "here", "m")]).await?;
        let relay = self.setting.run()?;
        self.each_once("catch-up", &relay).await?;
        self.parked("catch-up", self.nameless, &relay).await?;
        self.written.splice(0..0, past);
        self.marked("catch-up", &relay).await?;
        relay.drain(PATIENCE).await
    }

    /// Each row counts by itself.
    async fn verifies(&self) -> Result<()> {
        let (all, nameless) = (self.written.len(), self.nameless);
        let all = i64::try_from(all)?;
        let (committed, delivered) = match self.mode {
            "delete" => (nameless, None),
            "none" => (all + nameless, None),
            _ => (all + nameless, Some(all)),
        };
        wait_for("the ledger", PATIENCE, async || {
            let output = self.setting.program.output(&["verify", "--exact", "--json"]).await?;
            let told: Value = serde_json::from_slice(&output.stdout)?;
            let of = |kind: &str| told["tables"][0][kind]["rows"].as_i64();
            ensure!(of("committed") == Some(committed), "{committed} committed: {told}");
            ensure!(delivered.is_none() || of("delivered") == delivered, "{delivered:?}: {told}");
            ensure!(of("parked") == Some(nameless), "{nameless} parked: {told}");
            ensure!(of("unmarked") == Some(0) && of("waiting") == Some(0), "{told}");
            Ok(Some(()))
        })
        .await
        .context(self.mode)
    }

    /// One of several rows of an id has lost its mark: it is sent once more, and no other.
    async fn reconciles(&mut self) -> Result<()> {
        // Not one that the list of the catch-up has a row of its id of: until the slot has passed that list,
        // a start marks its rows again, and a mark of one is a mark of all.
        let lost = *self.written.get(3).context("a row")?;
        let sql = match self.mode {
            "update" => format!("UPDATE events SET relayed_at = NULL WHERE payload = '{lost}'"),
            _ => format!(
                "DELETE FROM pgoutbox.relayed AS mark USING events
                  WHERE events.payload = '{lost}' AND mark.id = events.id
                    AND pgoutbox.is_mark_of(mark, events.xmin, events.occurred_at::text)"
            ),
        };
        let client = self.setting.client().await?;
        client.batch_execute("SET timezone = 'UTC'").await?;
        ensure!(client.execute(&sql, &[]).await? == 1, "{}: {sql}", self.mode);
        self.from = (0, self.consumer.total());
        let hasty = self
            .setting
            .clone()
            .set("reconcile.interval", "1s")
            .set("reconcile.age", "1s")
            .set("reconcile.republish", "true")
            .set("audit.hold", "500ms")
            .set("audit.give_up", "1s");
        let relay = hasty.run()?;
        self.marked("reconciliation", &relay).await?;
        relay.drain(PATIENCE).await?;
        let once = BTreeMap::from([(lost, 1)]);
        wait_for("it to come again", PATIENCE, async || Ok((self.came() == once).then_some(())))
            .await
            .with_context(|| format!("{}: {:?}\n{}", self.mode, self.came(), relay.log()))
    }

    async fn replays(&mut self) -> Result<()> {
        self.from = (0, self.consumer.total());
        let output = self.setting.program.output(&["replay", "--id", "twin"]).await?;
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let wanted: Vec<i64> = match self.mode {
            "delete" => Vec::new(),
            _ => {
                let sql = "SELECT array_agg(payload::text::bigint ORDER BY payload::text::bigint) FROM events WHERE id = 'twin'";
                self.setting.ask(sql).await?
            }
        };
        let once: BTreeMap<_, _> = wanted.iter().map(|n| (*n, 1)).collect();
        wait_for("the replay", PATIENCE, async || Ok((self.came() == once).then_some(())))
            .await
            .with_context(|| format!("{}: {:?} not {once:?}\n{told}", self.mode, self.came()))
    }

    async fn prunes(&self) -> Result<()> {
        self.setting.program.succeed(&["prune", "--keep", "0s"]).await?;
        let left: i64 = self.setting.ask("SELECT count(*) FROM events").await?;
        let nameless: i64 =
            self.setting.ask("SELECT count(*) FROM events WHERE id IS NULL").await?;
        ensure!(
            (left, nameless) == (self.nameless, self.nameless),
            "{}: {left} {nameless}",
            self.mode
        );
        Ok(())
    }
}

fn number(delivery: &Delivery) -> i64 {
    std::str::from_utf8(&delivery.body).ok().and_then(|n| n.parse().ok()).unwrap_or(-1)
}

async fn through_everything(mode: &'static str) -> Result<()> {
    let mut world = World::new(mode).await?;
    world.streams().await?;
    world.is_killed().await?;
    world.parks().await?;
    if mode != "none" {
        world.catches_up().await?;
    }
    world.verifies().await?;
    if matches!(mode, "update" | "side_table") {
        world.reconciles().await?;
    }
    world.replays().await?;
    if matches!(mode, "update" | "side_table") {
        world.prunes().await?;
    }
    Ok(())
}

#[tokio::test]
async fn rows_that_share_an_id_or_have_none_are_marked_in_themselves() -> Result<()> {
    through_everything("update").await
}

#[tokio::test]
async fn rows_that_share_an_id_or_have_none_are_marked_beside() -> Result<()> {
    through_everything("side_table").await
}

#[tokio::test]
async fn rows_that_share_an_id_or_have_none_are_removed() -> Result<()> {
    through_everything("delete").await
}

#[tokio::test]
async fn rows_that_share_an_id_or_have_none_are_not_marked() -> Result<()> {
    through_everything("none").await
}

/// Numbers that are none: equal to themselves in Postgres, unlike elsewhere.
#[tokio::test]
async fn ids_that_are_no_numbers() -> Result<()> {
    const IDS: [&str; 4] = ["NaN", "Infinity", "-Infinity", "7"];
    for (of, mode) in [("numeric", "update"), ("float8", "side_table"), ("float8", "delete")] {
        let setting = Setting::bare().await?.set("audit.mode", mode).set("tables.0.name", "events");
        let table = format!(
            "CREATE TABLE events (id {of} PRIMARY KEY, topic text DEFAULT 'here', payload jsonb DEFAULT '1', relayed_at timestamptz)"
        );
        setting.sql(&table).await?;
        let made = setting.program.output(&["init", "--declare"]).await?;
        if of == "float8" {
            // What a float shows is not always what it is.
            let told = String::from_utf8_lossy(&made.stderr).into_owned();
            ensure!(!made.status.success(), "{told}");
            continue;
        }
        let consumer = setting.bound("here").await?;
        let relay = setting.run()?;
        for id in IDS {
            setting.sql(&format!("INSERT INTO events (id) VALUES ('{id}')")).await?;
        }
        let came = crate::bare::ids(&crate::bare::arrived(&consumer, IDS.len()).await?);
        ensure!(came == IDS, "{came:?}");
        let marked = "SELECT count(relayed_at) = 4 FROM events";
        setting.until("their marks", marked).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        // And by a catch-up.
        setting.sql("UPDATE events SET relayed_at = NULL").await?;
        setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        let relay = setting.run()?;
        crate::bare::arrived(&consumer, 2 * IDS.len()).await.with_context(|| relay.log())?;
        setting.until("their marks", marked).await.with_context(|| relay.log())?;
        for id in IDS {
            setting.program.succeed(&["replay", &format!("--id={id}"), "--yes"]).await?;
        }
        crate::bare::arrived(&consumer, 3 * IDS.len()).await?;
        setting.program.succeed(&["verify"]).await?;
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
