//! `docs/moving-in.md`: from a poller, from Debezium's own engine, and from another slot, while writers write.

mod debezium;

use anyhow::{Context as _, Result, ensure};
use harness::events::{counted, event, events};
use harness::workload::Workload;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};

use super::{OUTBOX, follow, step};
use crate::bare::arrived;
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting, steady};

const PAGE: &str = "moving-in.md";

/// How a poller takes rows.
#[derive(Clone, Copy, Debug)]
enum Taking {
    /// Each is published and marked by itself.
    Each,
    /// All under one lock, and marked in one statement.
    Batch,
}

/// Rows that a poller takes at a time.
const BATCH: usize = 50;

/// Polls until it has published so many, and is gone before it marks the last of them. Returns how many
/// it published without marking them.
async fn poll(setting: &Setting, taking: Taking, until: usize) -> Result<usize> {
    let client = setting.client().await?;
    let channel = setting.channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let lock = if let Taking::Batch = taking { "FOR UPDATE SKIP LOCKED" } else { "" };
    let take = format!(
        "SELECT id::text, coalesce(topic, aggregate_type || '.' || event_type), payload::text
           FROM outbox_messages WHERE relayed_at IS NULL ORDER BY occurred_at LIMIT {BATCH} {lock}"
    );
    let mut published = 0;
    loop {
        client.batch_execute("BEGIN").await?;
        let rows = client.query(&take, &[]).await?;
        if let Taking::Each = taking {
            client.batch_execute("COMMIT").await?;
        }
        let mut ids = Vec::new();
        for row in rows {
            let (id, key, body): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            let properties = BasicProperties::default().with_message_id(id.as_str().into());
            let options = BasicPublishOptions::default();
            let confirm = channel
                .basic_publish("outbox".into(), key.into(), options, body.as_bytes(), properties)
                .await?;
            ensure!(confirm.await?.is_ack(), "not confirmed");
            published += 1;
            ids.push(id);
            if published >= until {
                return Ok(ids.len());
            }
            if let Taking::Each = taking {
                mark(&client, &std::mem::take(&mut ids)).await?;
            }
        }
        mark(&client, &ids).await?;
        if let Taking::Batch = taking {
            client.batch_execute("COMMIT").await?;
        }
    }
}

async fn mark(client: &tokio_postgres::Client, ids: &[String]) -> Result<()> {
    let sql = "UPDATE outbox_messages SET relayed_at = now() WHERE id::text = ANY ($1)";
    client.execute(sql, &[&ids]).await?;
    Ok(())
}

/// A number before these words.
fn number(text: &str, words: &str) -> Result<i64> {
    let before = text.split_once(words).with_context(|| format!("no {words:?} in {text}"))?.0;
    let number = before.rsplit([' ', '\n']).next().unwrap_or_default();
    number.parse().with_context(|| format!("{number:?} before {words:?} in {text}"))
}

async fn from_a_poller(taking: Taking) -> Result<()> {
    let setting = Setting::bare().await?;
    setting.sql(OUTBOX).await?;
    let consumer = setting.bound("#").await?;
    let mut load = Workload::start(&setting.database_url, steady()).await?;
    // In the middle of a batch.
    let doubtful = poll(&setting, taking, 10 * BATCH + BATCH / 2).await?;
    let looked = follow(&setting, &step(PAGE, "norun poller: look")?).await?.0;
    let waiting = number(&looked, " rows of public.outbox_messages wait")?;
    ensure!(waiting >= i64::try_from(doubtful)?, "{waiting} wait, {doubtful} are in doubt");
    let (moved, relay) = follow(&setting, &step(PAGE, "norun poller: move")?).await?;
    ensure!(number(&moved, " rows that waited before are listed")? >= waiting, "{moved}");
    let relay = relay.context("a relay")?;
    let before = consumer.distinct();
    consumer.wait_distinct(before + 200, PATIENCE).await.with_context(|| relay.log())?;
    load.stop();
    let ledger = load.finish().await?;
    let verdict = setting.judge(&ledger, consumer, &relay, doubtful).await?;
    assert_eq!(verdict.repeated, doubtful, "what it had published and not marked, {taking:?}");
    Ok(())
}

#[tokio::test]
async fn from_a_poller_that_marks_each_row() -> Result<()> {
    from_a_poller(Taking::Each).await
}

#[tokio::test]
async fn from_a_poller_that_marks_a_batch() -> Result<()> {
    from_a_poller(Taking::Batch).await
}

/// Before anything of pgoutbox is there, and after, with each kind of mark.
#[tokio::test]
async fn a_dry_run_counts_the_rows_that_wait() -> Result<()> {
    let count = async |setting: &Setting| -> Result<i64> {
        let dry = setting.program.succeed(&["init", "--dry-run"]).await?;
        number(&dry, " rows of public.outbox_messages wait")
    };
    for mode in ["update", "side_table", "delete"] {
        let setting = Setting::bare().await?.set("audit.mode", mode);
        setting.sql(OUTBOX).await?;
        let payload = "jsonb_build_object('n', n)";
        setting.insert(events(1..=7, "t").column("payload", payload)).await?;
        setting.insert(event(8, "left.out")).await?;
        let marked = "UPDATE outbox_messages SET relayed_at = now() WHERE payload->>'n' <= '2'";
        setting.sql(marked).await?;
        let want = if mode == "update" { 6 } else { 8 };
        assert_eq!(count(&setting).await?, want, "{mode}");
        let ruled = setting.clone().set("tables.0.except.topic", "left.out");
        assert_eq!(count(&ruled).await?, want - 1, "{mode}");
        let checked = setting.check().await?;
        let waiting = checked.has("rows-waiting", "warning")["what"].to_string();
        ensure!(waiting.contains(&format!("{want} rows of")), "{waiting}");
        // Of a slot that was lost, beside what is parked.
        setting.init().await?;
        setting.put_aside(3, "parked").await?;
        let drop = "SELECT pg_drop_replication_slot(current_database()); DELETE FROM pgoutbox.catch_up_rows; DELETE FROM pgoutbox.catch_up";
        setting.sql(drop).await?;
        assert_eq!(count(&setting).await?, want - 1, "{mode}");
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.catch_up").await?, 0);
    }
    let setting = Setting::bare().await?.set("audit.mode", "none");
    setting.sql(OUTBOX).await?;
    let dry = setting.program.succeed(&["init", "--dry-run"]).await?;
    ensure!(dry.contains("nothing tells which wait"), "{dry}");
    Ok(())
}

/// What is settled, parked and paused goes with the place, whether rows are marked or not.
#[tokio::test]
async fn from_another_slot() -> Result<()> {
    for mode in ["update", "none"] {
        let old = Setting::bare().await?.set("audit.mode", mode).set("parking.backoff_min", "1h");
        let old = old.set("parking.backoff_max", "1h");
        old.init().await?;
        let consumer = old.bound("good").await?;
        let relay = old.run()?;
        old.insert(event(1, "late").of("a")).await?;
        old.insert(counted(2..=300).topic("good")).await?;
        old.parking_is(&relay, "1 parked").await?;
        arrived(&consumer, 299).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        old.insert(counted(301..=320).topic("good")).await?;
        let name = format!("{}_new", old.database);
        let new = old.clone().set("postgres.slot", &name);
        let of = |name: &str| -> Result<String> {
            let named = format!("--from-slot {}", old.database);
            let dropped = format!("slot('{}')", old.database);
            let step = step(PAGE, name)?.replace("--from-slot orders", &named);
            Ok(step.replace("slot('orders')", &dropped))
        };
        let looked = follow(&new, &of("norun slot: look")?).await?.0;
        assert_eq!(number(&looked, " rows of publication pgoutbox wait")?, 20, "{looked}");
        let (moved, relay) = follow(&new, &of("norun slot: move")?).await?;
        ensure!(moved.contains("where slot"), "{moved}");
        let relay = relay.context("a relay")?;
        new.insert(counted(321..=330).topic("good")).await?;
        arrived(&consumer, 329).await.with_context(|| relay.log())?;
        new.parking_is(&relay, "1 parked").await?;
        new.bind("late").await?;
        new.program.succeed(&["parked", "retry", "--all"]).await?;
        arrived(&consumer, 330).await.with_context(|| relay.log())?;
        new.parking_is(&relay, "").await?;
        relay.drain(PATIENCE).await?;
        assert_eq!((consumer.total(), consumer.distinct()), (330, 330), "{mode}");
        new.check().await?.has("slot-unread-other", "warning");
        old.sql(&of("norun slot: leave")?).await?;
        new.check().await?.has_not("slot-unread-other");
        if mode == "update" {
            new.all_marked().await?;
        }
    }
    Ok(())
}

/// Each says what is the matter, and makes no slot.
#[tokio::test]
async fn a_slot_that_none_can_begin_at_is_refused() -> Result<()> {
    let setting = Setting::shared().await?;
    let (own, new) = (setting.database.clone(), format!("{}_new", setting.database));
    let other = setting.clone().set("postgres.slot", &new);
    let physical = format!("{own}_physical");
    setting.sql(&format!("SELECT pg_create_physical_replication_slot('{physical}')")).await?;
    let relay = setting.run()?;
    setting.until("the slot to be read", "SELECT bool_and(active) FROM pg_replication_slots WHERE slot_name = current_database()").await?;
    for (from, program, what) in [
        ("nobody", &other.program, "does not exist"),
        (&*physical, &other.program, "it is a physical slot"),
        (&*own, &other.program, "is in use by pid"),
        (&*physical, &setting.program, "exists already"),
    ] {
        let output = program.output(&["init", "--from-slot", from]).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1) && told.contains(what), "{from}: {told}");
        ensure!(told.contains("hint: "), "{from}: {told}");
    }
    relay.drain(PATIENCE).await?;
    // A publication that the slot does not know yet.
    let newer = other.clone().set("postgres.publication", "newer");
    let output = newer.program.output(&["init", "--from-slot", &own]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(told.contains("is newer than what slot"), "{told}");
    let slots = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{new}'");
    assert_eq!(setting.ask::<i64>(&slots).await?, 0);
    setting.sql(&format!("SELECT pg_drop_replication_slot('{physical}')")).await
}

/// A publication that the slot knows, and that got the table since, by its schema. On a server of its own: slots of
/// other tests would have it taken for new as it is.
#[tokio::test]
async fn a_slot_that_does_not_know_the_schema_of_its_publication_is_refused() -> Result<()> {
    let (_postgres, setting) = Setting::own_postgres().await?;
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        return Ok(());
    }
    for sql in [
        "SELECT pg_drop_replication_slot(current_database())",
        "CREATE TABLE another (id int)",
        "CREATE PUBLICATION by_schema FOR TABLE another WITH (publish = 'insert')",
        "SELECT pg_create_logical_replication_slot('former', 'pgoutput')",
        "ALTER PUBLICATION by_schema ADD TABLES IN SCHEMA public",
    ] {
        setting.sql(sql).await?;
    }
    let newer =
        setting.clone().set("postgres.slot", "mine").set("postgres.publication", "by_schema");
    let output = newer.program.output(&["init", "--from-slot", "former"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(told.contains("is newer than what slot"), "{told}");
    assert_eq!(
        setting
            .ask::<i64>("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'mine'")
            .await?,
        0
    );
    Ok(())
}
