//! Outbox tables as users have them: ids and payloads of every type, hostile names, partitions,
//! triggers, and what stands beside; each with every kind of mark, through everything that becomes of
//! an event. A table works, or `init` and `check` refuse it by name; nothing in between.
//!
//! All tables of a mode are those of one relay: what is wrong with one would also stop the others.

mod list;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use harness::consumer::{Consumer, Delivery};
use harness::relay::Relay;
use harness::wait_until;
use serde_json::Value;

use crate::bare::id;
use crate::check::Checks as _;
use crate::check::hint;
use crate::setting::{PATIENCE, Setting};
use list::{Case, Refused, refuses, works};

const MODES: [&str; 4] = ["update", "side_table", "delete", "none"];

fn quoted(schema: &str, table: &str) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", quote(schema), quote(table))
}

/// Puts in what the texts of the list leave open.
fn filled(text: &str, name: &str, table: &str, n: u32, topic: &str) -> String {
    const REST: &str =
        "topic text, payload jsonb, aggregate_type text, aggregate_id text, relayed_at timestamptz";
    text.replace("{rest}", REST)
        .replace("{c}", "topic, payload, aggregate_type, aggregate_id")
        .replace("{v}", "'{topic}', '{\"n\": {n}}', 'kind', '{name}'")
        .replace("{t}", table)
        .replace("{name}", name)
        .replace("{topic}", topic)
        .replace("{n}", &n.to_string())
}

impl Case {
    fn sql(&self, text: &str, n: u32, topic: &str) -> String {
        filled(text, self.name, &quoted(self.schema, self.table), n, topic)
    }

    fn id(&self, n: u32) -> String {
        self.id.replace("{n}", &n.to_string())
    }

    fn body(&self, n: u32) -> Vec<u8> {
        let body = self.body.replace("{n}", &n.to_string());
        match (body.strip_prefix("TEXT:"), body.strip_prefix("\\x")) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(hex)) => {
                let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
                digits.chunks(2).filter_map(|two| u8::try_from(two[0] * 16 + two[1]).ok()).collect()
            }
            (None, None) => body.into_bytes(),
        }
    }

    /// The columns of the mark with what they hold then; `None`: any time.
    fn mark(&self) -> Vec<(String, Option<String>)> {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let of_mark = self.set.iter().filter_map(|(key, value)| {
            let constant = (*value != "now()").then(|| format!("'{}'", value.replace('\'', "''")));
            Some((quote(key.strip_prefix("mark.")?), constant))
        });
        let of_mark: Vec<_> = of_mark.collect();
        if !of_mark.is_empty() {
            return of_mark;
        }
        let named = self.set.iter().find(|(key, _)| *key == "columns.relayed_at");
        vec![(quote(named.map_or("relayed_at", |(_, name)| name)), None)]
    }

    /// Whether a row is marked in itself.
    fn marked(&self) -> String {
        let holds = self.mark().into_iter().map(|(column, constant)| match constant {
            None => format!("{column} IS NOT NULL"),
            Some(constant) => format!("{column} = {constant}"),
        });
        holds.collect::<Vec<_>>().join(" AND ")
    }

    /// Takes the mark of a row away: what a new row holds.
    fn unmark(&self) -> String {
        let set = self.mark().into_iter().map(|(column, _)| format!("{column} = DEFAULT"));
        set.collect::<Vec<_>>().join(", ")
    }
}

/// One mode's tables, on one relay.
struct World {
    mode: &'static str,
    cases: Vec<Case>,
    setting: Setting,
    consumer: Consumer,
    /// Takes what no queue took before.
    late: Option<Consumer>,
    outcomes: usize,
    wrong: Vec<String>,
}

impl World {
    async fn new(mode: &'static str) -> Result<Self> {
        let cases = works();
        let mut setting = Setting::bare()
            .await?
            .set("audit.mode", mode)
            .set("parking.limit", "100000")
            .set("parking.backoff_min", "1h")
            .set("parking.backoff_max", "2h");
        for (number, case) in cases.iter().enumerate() {
            setting = setting
                .set(&format!("tables.{number}.schema"), case.schema)
                .set(&format!("tables.{number}.name"), case.table)
                .set(&format!("tables.{number}.app_id"), case.name);
            for (key, value) in case.set {
                // Where rows do not carry their marks, there is nothing to say of them.
                if key.starts_with("mark.") && mode != "update" {
                    continue;
                }
                setting = setting.set(&format!("tables.{number}.{key}"), value);
            }
            let made = setting.sql(&case.sql(case.ddl, 0, "")).await;
            made.with_context(|| case.name)?;
        }
        setting.init().await?;
        let consumer = setting.bound("here").await?;
        Ok(Self { mode, cases, setting, consumer, late: None, outcomes: 0, wrong: Vec::new() })
    }

    async fn insert(&self, n: u32, topic: &str) -> Result<()> {
        let client = self.setting.client().await?;
        for case in &self.cases {
            let inserted = client.batch_execute(&case.sql(case.insert, n, topic)).await;
            inserted.with_context(|| case.name)?;
        }
        Ok(())
    }

    /// What came of each table, first copies or those that were sent once more.
    fn came(&self, is_replayed: bool) -> BTreeMap<String, Vec<Delivery>> {
        let mut all = self.consumer.deliveries(<[Delivery]>::to_vec);
        if let Some(late) = &self.late {
            all.extend(late.deliveries(<[Delivery]>::to_vec));
        }
        all.retain(|delivery| delivery.header("pgoutbox-replayed").is_some() == is_replayed);
        let mut came = BTreeMap::<String, Vec<Delivery>>::new();
        for delivery in all {
            let app = delivery.properties.app_id().as_ref().map(ToString::to_string);
            came.entry(app.unwrap_or_default()).or_default().push(delivery);
        }
        came
    }

    /// Waits until so many of each table came, and judges each: these rows, whole, once.
    async fn expect(
        &mut self,
        stage: &str,
        relay: Option<&Relay>,
        rows: &[u32],
        is_replayed: bool,
    ) -> Result<()> {
        let is_all = |came: &BTreeMap<String, Vec<Delivery>>, case: &Case| {
            came.get(case.name).is_some_and(|came| came.len() >= rows.len())
        };
        let waited = wait_until(stage, PATIENCE, async || {
            let came = self.came(is_replayed);
            let is_dead = relay.is_some_and(|relay| !relay.is_running());
            Ok(is_dead || self.cases.iter().all(|case| is_all(&came, case)))
        });
        let is_late = waited.await.is_err();
        let came = self.came(is_replayed);
        for case in self.cases.clone() {
            let came = came.get(case.name).map(Vec::as_slice).unwrap_or_default();
            let mut shown: Vec<_> = came.iter().map(|d| (id(d), d.body.to_vec())).collect();
            let mut wanted: Vec<_> = rows.iter().map(|n| (case.id(*n), case.body(*n))).collect();
            shown.sort();
            wanted.sort();
            self.judge(&case, stage, shown == wanted, || format!("{shown:?}, not {wanted:?}"));
        }
        let is_dead = relay.is_some_and(|relay| !relay.is_running());
        if let Some(relay) = relay.filter(|_| is_dead || is_late) {
            anyhow::bail!("{}: {:#?}\n{}", self.mode, self.wrong, relay.log());
        }
        Ok(())
    }

    fn judge(&mut self, case: &Case, stage: &str, is_well: bool, what: impl FnOnce() -> String) {
        self.outcomes += 1;
        if !is_well {
            self.wrong.push(format!("{} {}: {stage}: {}", self.mode, case.name, what()));
        }
    }

    /// One number of each table, by SQL over its name and its mark's.
    async fn count(&mut self, stage: &str, sql: &str, wanted: i64) -> Result<()> {
        let client = self.setting.client().await?;
        for case in self.cases.clone() {
            let literal = format!("'{}'", quoted(case.schema, case.table).replace('\'', "''"));
            let sql = sql.replace("{marked}", &case.marked()).replace("{literal}", &literal);
            let sql = case.sql(&sql, 0, "");
            let count = wait_until(stage, PATIENCE, async || {
                Ok(client.query_one(&sql, &[]).await?.try_get::<_, i64>(0)? == wanted)
            });
            let outcome = count.await;
            let is_well = outcome.is_ok();
            self.judge(&case, stage, is_well, || format!("{sql}: {outcome:?}"));
            // Each of the others would cost as much time as this one.
            anyhow::ensure!(is_well, "{:#?}", self.wrong);
        }
        Ok(())
    }

    fn is_marking(&self) -> bool {
        self.mode != "none"
    }

    /// Every row that was delivered has its mark.
    async fn marked(&mut self, stage: &str, rows: i64) -> Result<()> {
        match self.mode {
            "update" => self.count(stage, "SELECT count(*) FROM {t} WHERE {marked}", rows).await,
            "delete" => self.count(stage, "SELECT count(*) FROM {t}", 0).await,
            "side_table" => {
                let marks =
                    "SELECT count(*) FROM pgoutbox.relayed WHERE outbox = {literal}::regclass";
                self.count(stage, marks, rows).await
            }
            _ => Ok(()),
        }
    }

    async fn streams(&mut self) -> Result<()> {
        let relay = self.setting.run()?;
        self.insert(1, "here").await?;
        self.insert(2, "here").await?;
        self.expect("stream", Some(&relay), &[1, 2], false).await?;
        self.marked("marks", 2).await?;
        relay.drain(PATIENCE).await
    }

    /// A restart brings what came meanwhile; what no queue takes is parked, and the next of its
    /// aggregate waits behind it.
    async fn parks(&mut self) -> Result<()> {
        self.insert(3, "nowhere").await?;
        let relay = self.setting.run()?;
        let parked = "SELECT count(*) FROM pgoutbox.parked WHERE outbox = {literal}::regclass";
        self.count("parking", parked, 1).await?;
        // Not before: what is in flight with an event that comes back may pass it.
        self.insert(4, "here").await?;
        self.count("parking behind", parked, 2).await?;
        self.late = Some(self.setting.bound("nowhere").await?);
        self.setting.program.succeed(&["parked", "retry", "--all"]).await?;
        self.expect("retry", Some(&relay), &[1, 2, 3, 4], false).await?;
        self.count("parking is empty", parked, 0).await?;
        self.marked("marks of parked events", 4).await?;
        relay.drain(PATIENCE).await
    }

    /// Rows of the time when the slot was gone.
    async fn catches_up(&mut self) -> Result<()> {
        self.insert(5, "here").await?;
        self.setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
        self.insert(6, "here").await?;
        let relay = self.setting.run()?;
        self.expect("catch-up", Some(&relay), &[1, 2, 3, 4, 5, 6], false).await?;
        self.marked("marks of a catch-up", 6).await?;
        let verify = ["verify", "--exact", "--json"];
        let output = self.setting.program.output(&verify).await?;
        let verified: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        for (number, case) in self.cases.clone().iter().enumerate() {
            let table = &verified["tables"][number];
            let wanted = if self.mode == "delete" { 0 } else { 6 };
            let is_well = table["committed"]["rows"] == wanted
                && (wanted == 0 || table["delivered"]["rows"] == wanted);
            self.judge(case, "verify", is_well, || table.to_string());
        }
        relay.drain(PATIENCE).await
    }

    /// A row whose mark got lost is found, and sent once more.
    async fn reconciles(&mut self) -> Result<()> {
        for case in self.cases.clone() {
            let table = quoted(case.schema, case.table);
            let unmark = match self.mode {
                "update" => {
                    let (unmark, one) = (case.unmark(), "(SELECT tableoid, ctid FROM {t} LIMIT 1)");
                    format!("UPDATE {{t}} SET {unmark} WHERE (tableoid, ctid) IN {one}")
                }
                _ => {
                    let literal = table.replace('\'', "''");
                    format!(
                        "DELETE FROM pgoutbox.relayed WHERE ctid = (SELECT min(ctid) FROM pgoutbox.relayed WHERE outbox = '{literal}'::regclass)"
                    )
                }
            };
            self.setting.sql(&case.sql(&unmark, 0, "")).await.with_context(|| case.name)?;
        }
        let hasty = self
            .setting
            .clone()
            .set("reconcile.interval", "1s")
            .set("reconcile.age", "1s")
            .set("reconcile.republish", "true")
            .set("audit.hold", "1s")
            .set("audit.give_up", "1s");
        let relay = hasty.run()?;
        self.marked("reconciliation", 6).await?;
        relay.drain(PATIENCE).await?;
        if !self.wrong.is_empty() {
            println!("{}", relay.log());
        }
        Ok(())
    }

    async fn replays(&mut self) -> Result<()> {
        // What reconciliation sent stands beside.
        self.consumer = self.setting.bound("here").await?;
        self.late = Some(self.setting.bound("nowhere").await?);
        let replay = ["replay", "--all", "--rate", "100000", "--json"];
        self.setting.program.succeed(&replay).await?;
        let rows: &[u32] = match self.mode {
            "delete" => &[],
            "none" => &[1, 2, 3, 4],
            _ => &[1, 2, 3, 4, 5, 6],
        };
        self.expect("replay", None, rows, true).await
    }

    async fn prunes(&mut self) -> Result<()> {
        let pruned = self.setting.program.output(&["prune", "--keep", "0s", "--json"]).await?;
        let said = String::from_utf8_lossy(&pruned.stdout).into_owned();
        anyhow::ensure!(
            pruned.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&pruned.stderr)
        );
        self.count("pruning", "SELECT count(*) FROM {t}", 0).await
    }
}

async fn works_in(mode: &'static str) -> Result<()> {
    let mut world = World::new(mode).await?;
    let checked = world.setting.check().await?;
    assert_eq!(checked.code, Some(0), "{mode}: {checked}");
    world.streams().await?;
    world.parks().await?;
    if world.is_marking() {
        world.catches_up().await?;
    }
    if matches!(mode, "update" | "side_table") {
        world.reconciles().await?;
    }
    world.replays().await?;
    if matches!(mode, "update" | "side_table") {
        world.prunes().await?;
    }
    println!("{mode}: {} tables, {} outcomes", world.cases.len(), world.outcomes);
    assert!(world.wrong.is_empty(), "{:#?}", world.wrong);
    Ok(())
}

#[tokio::test]
async fn every_table_is_relayed_with_marks_in_its_rows() -> Result<()> {
    works_in("update").await
}

#[tokio::test]
async fn every_table_is_relayed_with_marks_beside_it() -> Result<()> {
    works_in("side_table").await
}

#[tokio::test]
async fn every_table_is_relayed_with_rows_that_go() -> Result<()> {
    works_in("delete").await
}

#[tokio::test]
async fn every_table_is_relayed_without_marks() -> Result<()> {
    works_in("none").await
}

/// All of them are found at once, each by the name of what is wrong with it and with what helps.
async fn refuses_in(mode: &'static str) -> Result<usize> {
    let cases: Vec<Refused> = refuses()
        .into_iter()
        .filter(|case| case.modes.is_empty() || case.modes.contains(&mode))
        .collect();
    let mut setting = Setting::bare().await?.set("audit.mode", mode);
    for (number, case) in cases.iter().enumerate() {
        setting = setting.set(&format!("tables.{number}.name"), case.name);
        for (key, value) in case.set {
            setting = setting.set(&format!("tables.{number}.{key}"), value);
        }
        for sql in [case.ddl, case.insert] {
            let sql = filled(sql, case.name, &quoted("public", case.name), 0, "");
            setting.sql(&sql).await.with_context(|| case.name)?;
        }
    }
    let checked = setting.check().await?;
    let init = setting.program.output(&["init"]).await?;
    let said = String::from_utf8_lossy(&init.stderr).into_owned();
    assert_eq!((checked.code, init.status.code()), (Some(1), Some(1)), "{checked}\n{said}");
    for case in &cases {
        let title = format!("public.{}", case.name);
        let found = checked.of(case.finding, "error", &title);
        assert!(found.is_some(), "{mode}: {}: no {} in {checked}", case.name, case.finding);
        assert!(!hint(found.unwrap_or(&Value::Null)).is_empty(), "{}", case.name);
        // What is tried on a row is tried once all else is well.
        let is_tried = ["mark-swallowed", "mark-fails"].contains(&case.finding);
        assert!(is_tried || said.contains(&title), "{mode}: {title} not in {said}");
    }
    Ok(cases.len())
}

#[tokio::test]
async fn what_cannot_work_is_refused_by_name() -> Result<()> {
    for mode in MODES {
        println!("{mode}: {} tables refused", refuses_in(mode).await?);
    }
    Ok(())
}

/// Restored, copied, or moved to another partition: the row was relayed before.
#[tokio::test]
async fn rows_that_come_with_their_mark_are_no_events() -> Result<()> {
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id int, k int, topic text, payload jsonb, relayed_at timestamptz)
                 PARTITION BY LIST (k);
             CREATE TABLE odd PARTITION OF outbox_messages FOR VALUES IN (1);
             CREATE TABLE even PARTITION OF outbox_messages FOR VALUES IN (2)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    setting
        .sql(
            "INSERT INTO outbox_messages VALUES (1, 1, 'here', '1', now()), (2, 1, 'here', '2', NULL);
             INSERT INTO outbox_messages VALUES (3, 2, 'here', '3', 'infinity')",
        )
        .await?;
    let marked = "SELECT count(relayed_at) = 3 FROM outbox_messages";
    setting.until("the one to be marked", marked).await.with_context(|| relay.log())?;
    setting.sql("UPDATE outbox_messages SET k = 2 WHERE k = 1").await?;
    setting.sql("INSERT INTO outbox_messages VALUES (4, 1, 'here', '4', NULL)").await?;
    let came = crate::bare::arrived(&consumer, 2).await.with_context(|| relay.log())?;
    assert_eq!(crate::bare::ids(&came), ["2", "4"]);
    relay.drain(PATIENCE).await?;
    assert!(relay.log().contains("came_marked=4"), "{}", relay.log());
    // In any other mode the column means nothing.
    let beside = setting.clone().set("audit.mode", "side_table");
    let relay = beside.run()?;
    setting.sql("INSERT INTO outbox_messages VALUES (5, 1, 'here', '5', now())").await?;
    let came = crate::bare::arrived(&consumer, 3).await.with_context(|| relay.log())?;
    assert_eq!(crate::bare::ids(&came), ["2", "4", "5"]);
    relay.drain(PATIENCE).await
}
