//! What is remembered of another server, or not at all: a promotion, a copy, a dump, a schema that was
//! dropped.

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::counted;
use harness::postgres::Shutdown;
use harness::relay::Relay;
use harness::wait_until;

use crate::gaps::{all_came, came, copy, remade, stop};
use crate::setting::{PATIENCE, Setting, program};

/// It ends with an explanation, and again when it is started again; nothing was acknowledged meanwhile.
async fn halts(setting: &Setting, because: &str) -> Result<()> {
    for _ in 0..2 {
        let relay = setting.run()?;
        let status = relay.wait_exit(PATIENCE).await.with_context(|| relay.log())?;
        assert_eq!(status.code(), Some(1), "{}", relay.log());
        for text in
            ["rows may have passed by slot", because, "audit.mode = none", "SET coverage = NULL"]
        {
            assert!(relay.log().contains(text), "no {text:?}:\n{}", relay.log());
        }
    }
    Ok(())
}

/// As its hint says.
async fn goes_on(setting: &Setting) -> Result<()> {
    let slot = &setting.database;
    setting
        .sql(&format!("UPDATE pgoutbox.progress SET coverage = NULL WHERE slot = '{slot}'"))
        .await
}

async fn these_came(consumer: &Consumer, relay: &Relay, wanted: &[i64]) -> Result<()> {
    wait_until("these events", PATIENCE, async || Ok(came(consumer) == wanted))
        .await
        .with_context(|| format!("{:?}\n{}", came(consumer), relay.log()))
}

async fn run_sql(setting: &Setting, statements: &str) -> Result<()> {
    for statement in statements.split(';') {
        setting.sql(statement).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

/// Without marks: the new primary has no slot, or one that was made on it; with marks it is caught up.
#[tokio::test]
async fn a_promoted_server_whose_slot_was_made_there() -> Result<()> {
    let (primary, setting) = Setting::own_postgres().await?;
    let Ok(standby) = primary.standby(&[]).await else {
        // Without pg_basebackup beside this Postgres there is no standby.
        assert_ne!(primary.version(), 15);
        return Ok(());
    };
    let unmarked = setting.clone().set("audit.mode", "none");
    let consumer = setting.consumer().await?;
    let relay = unmarked.run()?;
    setting.insert(counted(1..=3).of("one")).await?;
    all_came(&consumer, &relay, 3).await?;
    relay.drain(PATIENCE).await?;
    // With the relay away: it never sees this one.
    setting.insert(counted(4..=4).of("one")).await?;
    primary.stop(Shutdown::Fast, PATIENCE).await?;
    standby.promote().await?;
    let url = standby.url(&setting.database);
    let moved = program(&setting.database, &url, &setting.amqp_url);
    let setting = Setting { database_url: url, program: moved, ..setting };
    let unmarked = setting.clone().set("audit.mode", "none");
    let relay = unmarked.run()?;
    assert_eq!(relay.wait_exit(PATIENCE).await?.code(), Some(1), "{}", relay.log());
    assert!(relay.log().contains("promoted without it"), "{}", relay.log());
    let slot = &setting.database;
    setting
        .sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"))
        .await?;
    halts(&unmarked, "somebody made it again").await?;
    // Somebody looks, publishes 4 and goes on.
    goes_on(&setting).await?;
    let relay = unmarked.run()?;
    setting.insert(counted(5..=6).of("one")).await?;
    these_came(&consumer, &relay, &[1, 2, 3, 5, 6]).await?;
    relay.drain(PATIENCE).await?;
    assert!(came(&consumer).is_sorted());
    Ok(())
}

/// A slot that somebody makes again between `init` and the first start, and a row of another server.
#[tokio::test]
async fn what_init_made_is_compared_too() -> Result<()> {
    for (mode, is_dump) in [("none", false), ("update", false), ("none", true), ("update", true)] {
        let setting = Setting::shared().await?.set("audit.mode", mode);
        run_sql(&setting, &setting.drop_slot()).await?;
        setting.init().await?;
        let consumer = setting.consumer().await?;
        setting.insert(counted(1..=3).of("one")).await?;
        let because = if is_dump {
            // As a dump of another server has it. Its LSNs say nothing here.
            setting
                .sql("UPDATE pgoutbox.progress SET system_identifier = '1', end_lsn = 'FFFF/0'")
                .await?;
            "restored from a dump"
        } else {
            "somebody made it again"
        };
        run_sql(&setting, &remade(&setting)).await?;
        setting.insert(counted(5..=6).of("one")).await?;
        if mode == "none" {
            halts(&setting, because).await?;
            goes_on(&setting).await?;
            let relay = setting.run()?;
            these_came(&consumer, &relay, &[5, 6]).await?;
            relay.drain(PATIENCE).await?;
        } else {
            let relay = setting.run()?;
            all_came(&consumer, &relay, 6).await?;
            setting.all_marked().await?;
            assert!(relay.log().contains(because), "{}", relay.log());
            assert!(!relay.log().contains("start_lsn=\"\""), "{}", relay.log());
            assert_eq!(consumer.total(), 6, "none twice: {}", relay.log());
            relay.drain(PATIENCE).await?;
        }
    }
    Ok(())
}

/// What somebody does to the slot.
trait Dropped {
    fn drop_slot(&self) -> String;
}

impl Dropped for Setting {
    fn drop_slot(&self) -> String {
        format!("SELECT pg_drop_replication_slot('{}')", self.database)
    }
}

/// Event `n` of one aggregate.
async fn topic(setting: &Setting, topic: &str, n: i64) -> Result<()> {
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic, payload, occurred_at)
             VALUES ('order', 'one', '{topic}', jsonb_build_object('n', {n}), clock_timestamp())"
        ))
        .await
}

/// What was parked goes with the schema: the rows that wait are listed, in their order.
#[tokio::test]
async fn a_schema_that_is_dropped_is_no_copy() -> Result<()> {
    const END_SESSIONS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    // A session that failed meanwhile writes its fault.
    const FAULT: &str = "WITH gone AS (DELETE FROM pgoutbox.progress RETURNING slot)
        INSERT INTO pgoutbox.progress (slot, system_identifier, timeline, end_lsn, fault, fault_at)
        SELECT slot, '', 0, '0/0', '{\"what\": \"x\"}', now() FROM gone";
    for (dropped, is_whole) in [
        ("DROP SCHEMA pgoutbox CASCADE", true),
        ("DELETE FROM pgoutbox.progress", false),
        (FAULT, false),
    ] {
        let setting = Setting::shared().await?.set("session.backoff_max", "300ms");
        let consumer = setting.bound("good").await?;
        let relay = setting.run()?;
        for n in 1..=3 {
            topic(&setting, "good", n).await?;
        }
        all_came(&consumer, &relay, 3).await?;
        setting.all_marked().await?;
        if is_whole {
            // Event 4 is refused, and 5 waits behind it.
            for (n, name) in [(4, "late"), (5, "good")] {
                topic(&setting, name, n).await?;
                let parked = format!("SELECT count(*) = {n} - 3 FROM pgoutbox.parked");
                setting.until("it to be parked", &parked).await.with_context(|| relay.log())?;
            }
        }
        if is_whole {
            setting.sql(dropped).await?;
            setting.sql("UPDATE outbox_messages SET topic = 'good' WHERE topic = 'late'").await?;
            setting.init().await?;
            setting.sql(END_SESSIONS).await?;
        } else {
            // The relay that lives does not make up for it.
            setting.sql(dropped).await?;
            topic(&setting, "good", 4).await?;
            topic(&setting, "good", 5).await?;
        }
        topic(&setting, "good", 6).await?;
        all_came(&consumer, &relay, 6).await.context(dropped)?;
        setting.all_marked().await?;
        assert!(!relay.log().contains("restored from a copy"), "{}", relay.log());
        assert!(relay.log().contains("was removed"), "{}", relay.log());
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

/// Without marks a copy of the volume costs repeats, and nothing is lost.
#[tokio::test]
async fn a_copy_is_restored_where_there_are_no_marks() -> Result<()> {
    let (server, setting) = Setting::own_postgres().await?;
    let setting = setting.set("session.backoff_max", "300ms").set("audit.mode", "none");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.insert(counted(1..=5).of("one")).await?;
    all_came(&consumer, &relay, 5).await?;
    relay.sigstop()?;
    stop(&server).await?;
    let backup = server.data().with_extension("copy");
    copy(&server.data(), &backup)?;
    server.start_again().await?;
    relay.sigcont()?;
    setting.insert(counted(1_000..=1_050).of("one")).await?;
    wait_until("these", PATIENCE, async || Ok(came(&consumer).len() == 56))
        .await
        .with_context(|| relay.log())?;
    // The consumer may have them before the relay has their confirms.
    setting.is_acknowledged(&relay).await?;
    relay.sigstop()?;
    stop(&server).await?;
    std::fs::remove_dir_all(server.data())?;
    copy(&backup, &server.data())?;
    server.start_again().await?;
    setting.insert(counted(6..=30).of("one")).await?;
    relay.sigcont()?;
    wait_until("the new ones", PATIENCE, async || {
        let numbers = came(&consumer);
        Ok((6..=30).all(|number| numbers.contains(&number)))
    })
    .await
    .with_context(|| relay.log())?;
    assert!(relay.log().contains("restored from a copy"), "{}", relay.log());
    relay.drain(PATIENCE).await
}
