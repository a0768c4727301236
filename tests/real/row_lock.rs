//! An operator's open transaction on a row of pgoutbox's own holds up what that row is about, and
//! nothing else.

use anyhow::{Context, Result};
use harness::events::rows;
use harness::proxy::{Direction, Proxy};
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::{wait_for, wait_until};
use tokio_postgres::Client;

use crate::bare::{arrived, ids};
use crate::place::Counted as _;
use crate::place::NUMBERED;
use crate::setting::{PATIENCE, Setting};

const PATIENT: Settings = &[
    ("parking.max_attempts", "100000"),
    ("parking.poll_interval", "500ms"),
    ("audit.hold", "1s"),
    ("audit.give_up", "2s"),
];

async fn locked(setting: &Setting, sql: &str) -> Result<(Client, i32)> {
    let client = setting.client().await?;
    client.batch_execute(&format!("BEGIN; {sql}")).await?;
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    Ok((client, pid))
}

/// While no parked event is being tried: what becomes of one is written in one batch with marks, which
/// then wait for this lock.
async fn locked_between_tries(setting: &Setting, sql: &str) -> Result<(Client, i32)> {
    let flies = "SELECT EXISTS (SELECT FROM pgoutbox.parked WHERE claimed_at IS NOT NULL)";
    wait_for("a moment without a try", PATIENCE, async || {
        let (client, pid) = locked(setting, sql).await?;
        let flies: bool = client.query_one(flies, &[]).await?.get(0);
        Ok((!flies).then_some((client, pid)))
    })
    .await
}

async fn marked(setting: &Setting, id: i64) -> Result<()> {
    let sql = format!("SELECT relayed_at IS NOT NULL FROM outbox_messages WHERE id = {id}");
    setting.until("it is marked", &sql).await
}

fn is_one_session(relay: &Relay) {
    let log = relay.log();
    assert!(!log.contains("session ended"), "{log}");
}

#[tokio::test]
async fn a_parked_event_that_waits_for_its_turn() -> Result<()> {
    for lock in [
        "SELECT FROM pgoutbox.parked WHERE event_id = '1' FOR UPDATE",
        "UPDATE pgoutbox.parked SET note = 'look here' WHERE event_id = '1'",
    ] {
        let (setting, consumer, relay) =
            Scenario::with(PATIENT).retries("100ms").tables(NUMBERED).run("good").await?;
        setting.insert(rows(1, "late").of("a")).await?;
        setting.insert(rows(1, "late").of("b")).await?;
        setting.insert(rows(1, "late").of("")).await?;
        setting.parking_is(&relay, "1 parked, 2 parked, 3 parked").await?;
        let (operator, pid) = locked(&setting, lock).await?;
        relay.wait_for_log(&format!("locked by pid {pid}"), PATIENCE).await?;
        // Of its aggregate, and of another.
        setting.insert(rows(1, "good").of("a")).await?;
        setting.insert(rows(1, "good").of("c")).await?;
        marked(&setting, 5).await.with_context(|| relay.log())?;
        setting.bind("late").await?;
        marked(&setting, 2).await.with_context(|| relay.log())?;
        marked(&setting, 3).await.with_context(|| relay.log())?;
        operator.batch_execute("COMMIT").await?;
        marked(&setting, 4).await.with_context(|| relay.log())?;
        setting.parking_is(&relay, "").await?;
        is_one_session(&relay);
        let came = ids(&arrived(&consumer, 5).await?);
        let of_a: Vec<&String> =
            came.iter().filter(|id| ["1", "4"].contains(&id.as_str())).collect();
        assert_eq!(of_a, ["1", "4"], "{came:?}");
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_parked_event_in_flight() -> Result<()> {
    // The lock, what ends it, and what the record says then.
    let cases = [
        ("SELECT FROM pgoutbox.parked WHERE event_id = '1' FOR UPDATE", true, "delivered", ""),
        (
            "UPDATE pgoutbox.parked SET state = 'discarded', next_attempt_at = NULL WHERE event_id = '1'",
            true,
            "delivered",
            "1 discarded",
        ),
        (
            "UPDATE pgoutbox.parked SET note = 'x' WHERE event_id = '1'",
            false,
            "refused",
            "1 parked",
        ),
    ];
    for (lock, is_bound, end, want) in cases {
        let setting = Scenario::with(PATIENT).retries("1h").tables(NUMBERED).setting().await?;
        let proxy = Proxy::start(harness::shared::rabbitmq().await?.port()).await?;
        let consumer = setting.bound("good").await?;
        let mut by_proxy = setting.clone();
        by_proxy.env("AMQP_URL", &proxy.url(&setting.amqp_url));
        let relay = by_proxy.run()?;
        setting.insert(rows(1, "late").of("a")).await?;
        setting.parking_is(&relay, "1 parked").await?;
        if is_bound {
            setting.bind("late").await?;
        }
        proxy.stall(Direction::Down);
        setting.program.succeed(&["parked", "retry", "--all"]).await?;
        let flies = "SELECT count(*) = 1 FROM pgoutbox.parked WHERE claimed_at IS NOT NULL";
        setting.until("it is in flight", flies).await?;
        let (operator, pid) = locked(&setting, lock).await?;
        proxy.resume(Direction::Down);
        relay.wait_for_log(&format!("locked by pid {pid}"), PATIENCE).await?;
        setting.insert(rows(1, "good").of("b")).await?;
        marked(&setting, 2).await.with_context(|| relay.log())?;
        if is_bound {
            marked(&setting, 1).await.with_context(|| relay.log())?;
        }
        operator.batch_execute("COMMIT").await?;
        let free = "SELECT count(*) = 0 FROM pgoutbox.parked WHERE claimed_at IS NOT NULL OR state = 'delivered'";
        setting.until("the outcome is written", free).await?;
        setting.parking_is(&relay, want).await?;
        if want == "1 discarded" {
            let note: String = setting.ask("SELECT note FROM pgoutbox.parked").await?;
            assert!(note.contains("it was in flight then, and was delivered at"), "{note}");
        }
        if end == "refused" {
            let waits = "SELECT attempts > 0 AND next_attempt_at > now() + interval '1 minute' FROM pgoutbox.parked";
            setting.until("it waits for its next try", waits).await?;
        }
        is_one_session(&relay);
        relay.drain(PATIENCE).await?;
        assert_eq!(consumer.total(), 1 + usize::from(is_bound), "nothing is sent twice");
    }
    Ok(())
}

#[tokio::test]
async fn the_rows_of_the_progress_and_the_pause() -> Result<()> {
    let (setting, consumer, relay) =
        Scenario::with(PATIENT).retries("1h").tables(NUMBERED).run("good").await?;
    setting.insert(rows(1, "good").of("a")).await?;
    marked(&setting, 1).await?;
    let (pausing, _) = locked(
        &setting,
        "INSERT INTO pgoutbox.pause (slot, paused_by) VALUES (current_database(), 'nobody')",
    )
    .await?;
    let (operator, pid) =
        locked(&setting, "UPDATE pgoutbox.progress SET updated_at = updated_at").await?;
    for _ in 0..3 {
        setting.insert(rows(1, "good").of("a")).await?;
    }
    arrived(&consumer, 4).await.with_context(|| relay.log())?;
    relay.wait_for_log(&format!("pgoutbox.progress is locked by pid {pid}"), PATIENCE).await?;
    marked(&setting, 2).await.with_context(|| relay.log())?;
    // Nor do later marks wait for it.
    setting.insert(rows(1, "good").of("a")).await?;
    marked(&setting, 5).await.with_context(|| relay.log())?;
    operator.batch_execute("COMMIT").await?;
    setting.all_marked().await?;
    pausing.batch_execute("ROLLBACK").await?;
    is_one_session(&relay);
    relay.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), 5, "nothing is sent twice");
    // Nor does a session begin without it, and it says why.
    let (operator, pid) =
        locked(&setting, "UPDATE pgoutbox.progress SET updated_at = updated_at").await?;
    let relay = setting.run()?;
    relay.wait_for_log(&format!("pgoutbox.progress is locked by pid {pid}"), PATIENCE).await?;
    operator.batch_execute("COMMIT").await?;
    setting.insert(rows(1, "good").of("a")).await?;
    arrived(&consumer, 6).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// A lock on all of the parking: what is not about it goes on, and the log says whose it is.
#[tokio::test]
async fn the_parking_as_a_whole() -> Result<()> {
    for (table, mode) in [
        ("pgoutbox.parked", "ACCESS EXCLUSIVE"),
        ("pgoutbox.parked", "SHARE"),
        ("pgoutbox.pause", "ACCESS EXCLUSIVE"),
    ] {
        let (setting, consumer, relay) =
            Scenario::with(PATIENT).retries("100ms").tables(NUMBERED).run("good").await?;
        setting.insert(rows(1, "late").of("a")).await?;
        setting.parking_is(&relay, "1 parked").await?;
        let lock = format!("LOCK TABLE {table} IN {mode} MODE");
        let (operator, pid) = locked_between_tries(&setting, &lock).await?;
        let said = format!("{table} is locked by pid {pid}");
        relay.wait_for_log(&said, PATIENCE).await?;
        // One whose mark waits for nothing, one that is to be parked, and others after it.
        setting.insert(rows(1, "good").of("b")).await?;
        marked(&setting, 2).await.with_context(|| format!("{lock}\n{}", relay.log()))?;
        setting.insert(rows(1, "late").of("c")).await?;
        for aggregate in ["a", "b", "d"] {
            setting.insert(rows(1, "good").of(aggregate)).await?;
        }
        let came = arrived(&consumer, 3).await.with_context(|| format!("{lock}\n{}", relay.log()));
        assert_eq!(ids(&came?), ["2", "5", "6"], "{lock}");
        // Their marks do not wait for what is to be parked, nor do later ones.
        marked(&setting, 6).await.with_context(|| format!("{lock}\n{}", relay.log()))?;
        setting.insert(rows(1, "good").of("b")).await?;
        marked(&setting, 7).await.with_context(|| format!("{lock}\n{}", relay.log()))?;
        setting.bind("late").await?;
        operator.batch_execute("COMMIT").await?;
        setting.all_marked().await.with_context(|| format!("{lock}\n{}", relay.log()))?;
        setting.parking_is(&relay, "").await?;
        is_one_session(&relay);
        // It also ends, and does not begin without it.
        let (operator, _) = locked(&setting, &lock).await?;
        setting.insert(rows(1, "good").of("e")).await?;
        marked(&setting, 8).await?;
        relay.drain(PATIENCE).await.context(lock.clone())?;
        operator.batch_execute("COMMIT").await?;
        let (operator, pid) = locked(&setting, &lock).await?;
        let relay = setting.run()?;
        setting.insert(rows(1, "good").of("e")).await?;
        relay.wait_for_log(&format!("{table} is locked by pid {pid}"), PATIENCE).await?;
        operator.batch_execute("COMMIT").await?;
        marked(&setting, 9).await.with_context(|| format!("{lock}\n{}", relay.log()))?;
        relay.drain(PATIENCE).await?;
        let came = ids(&arrived(&consumer, 9).await?);
        let of_a: Vec<_> = came.iter().filter(|id| ["1", "4"].contains(&id.as_str())).collect();
        assert_eq!(of_a, ["1", "4"], "{lock}: {came:?}");
    }
    Ok(())
}

/// The event has left the parking, its mark met a lock, and the process is gone.
#[tokio::test]
async fn a_mark_that_meets_a_lock_outlives_the_process() -> Result<()> {
    for mode in ["update", "delete"] {
        let (setting, consumer, relay) = Scenario::with(PATIENT)
            .retries("1h")
            .tables(NUMBERED)
            .set("audit.mode", mode)
            .run("good")
            .await?;
        setting.insert(rows(1, "late").of("a")).await?;
        setting.parking_is(&relay, "1 parked").await?;
        let (application, _) =
            locked(&setting, "SELECT FROM outbox_messages WHERE id = 1 FOR UPDATE").await?;
        setting.bind("late").await?;
        setting.program.succeed(&["parked", "retry", "--all"]).await?;
        arrived(&consumer, 1).await?;
        setting.parking_is(&relay, "1 delivered").await?;
        relay.kill9().await?;
        assert_eq!(setting.counts().await?[2], 1, "it is accounted for");
        // A session that begins while it is locked still, and one that the mark is given up in.
        let relay = setting.run()?;
        setting.insert(rows(1, "good").of("a")).await?;
        arrived(&consumer, 2).await.with_context(|| relay.log())?;
        setting.parking_is(&relay, "1 delivered").await?;
        application.batch_execute("COMMIT").await?;
        setting.parking_is(&relay, "").await?;
        match mode {
            "update" => marked(&setting, 1).await?,
            _ => setting.until("it is gone", "SELECT count(*) = 0 FROM outbox_messages").await?,
        }
        wait_until("it is recorded", PATIENCE, async || Ok(consumer.total() == 2)).await?;
        relay.drain(PATIENCE).await?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "2"], "nothing is sent twice");
    }
    Ok(())
}

/// A stop does not wait for ever: what stays unmarked is said.
#[tokio::test]
async fn a_mark_that_a_stop_gives_up_is_said_and_counted() -> Result<()> {
    let scenario = Scenario::with(PATIENT).set("audit.hold", "300ms").set("audit.give_up", "5m");
    let setting = scenario.tables(NUMBERED).setting().await?;
    let consumer = setting.bound("good").await?;
    setting.insert(rows(1, "good")).await?;
    let (lock, _) = locked(&setting, "SELECT FROM outbox_messages FOR UPDATE").await?;
    let relay = setting.run()?;
    arrived(&consumer, 1).await?;
    relay.drain(PATIENCE).await?;
    let log = relay.log();
    assert!(log.contains("the mark of event 1 of public.outbox_messages is given up"), "{log}");
    assert!(log.contains("marks_given_up=1"), "{log}");
    drop(lock);
    Ok(())
}
