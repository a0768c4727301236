//! Where one event stands: by the command, by HTTP, and in the log.

use anyhow::{Context, Result, ensure};
use harness::events::event;
use harness::http::get;
use harness::proxy::{Direction, Proxy};
use harness::scenario::{QUICK, Scenario};
use harness::{shared, wait_until};
use serde_json::Value;

use crate::setting::{PATIENCE, Setting, uuid};

/// The one event that a command tells of.
async fn told(setting: &Setting, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["event", "--json"], arguments].concat();
    let output = setting.program.output(&arguments).await?;
    let told: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok(told)
}

async fn state(setting: &Setting, number: u32) -> Result<(String, Value)> {
    let told = told(setting, &[&uuid(number)]).await?;
    let event = told["events"][0].clone();
    Ok((event["state"].as_str().unwrap_or("none").to_owned(), event))
}

async fn is(setting: &Setting, number: u32, wanted: &str) -> Result<Value> {
    let (state, event) = state(setting, number).await?;
    ensure!(state == wanted, "{state}, not {wanted}: {event:#}");
    Ok(event)
}

#[tokio::test]
async fn an_event_is_traced_from_its_row_to_its_end() -> Result<()> {
    let setting = Scenario::with(QUICK).setting().await?;
    let _consumer = setting.bound("good").await?;
    let unknown = told(&setting, &[&uuid(9)]).await?;
    ensure!(unknown["events"] == serde_json::json!([]), "{unknown}");
    ensure!(unknown["unknown"][0]["event_id"] == uuid(9), "{unknown}");

    // Written, and seen by nobody.
    let mut writer = setting.client().await?;
    let open = writer.transaction().await?;
    open.batch_execute(&event(1, "good").of("a").sql()).await?;
    let hidden = told(&setting, &[&uuid(1)]).await?;
    let notes = hidden["notes"].to_string();
    ensure!(
        notes.contains("1 transaction has written to an outbox table and not ended"),
        "{hidden}"
    );
    open.commit().await?;
    let waits = is(&setting, 1, "waiting").await?;
    ensure!(waits["routing_key"] == "good" && waits["exchange"] == "outbox", "{waits:#}");
    ensure!(
        told(&setting, &[&uuid(1)]).await?["notes"].to_string().contains("no relay reads the slot")
    );

    let relay = setting.run()?;
    setting.all_marked().await?;
    let delivered = is(&setting, 1, "delivered").await?;
    ensure!(
        delivered["row"]["marked_at"].as_str().is_some_and(|at| at.starts_with("20")),
        "{delivered:#}"
    );

    ensure!(
        delivered["what"].as_str().is_some_and(|what| what.starts_with("marked at")),
        "{delivered:#}"
    );
    // Its message was none of a replay, and the row does not say which position it told.
    let message = delivered["message"].to_string();
    for unknown in ["pgoutbox-replayed", "pgoutbox-commit-lsn", "pgoutbox-index"] {
        ensure!(!message.contains(unknown), "{delivered:#}");
    }

    // No queue has it: two tries that end alike are one line, and what follows it waits.
    setting.insert(event(2, "bad").of("b")).await?;
    setting.insert(event(3, "bad").of("b")).await?;
    setting.parking_is(&relay, "2 parked, 3 queued").await?;
    let parked = is(&setting, 2, "parked").await?;
    ensure!(
        parked["tries"][0]["times"] == 1 && parked["tries"][0]["reason"] == "returned",
        "{parked:#}"
    );
    ensure!(parked["parked"]["waiting_behind_it"] == 1, "{parked:#}");
    ensure!(parked["commit"].as_str().is_some_and(|place| place.contains('/')), "{parked:#}");
    ensure!(parked["committed_at"].as_str().is_some_and(|at| at.starts_with("20")), "{parked:#}");
    is(&setting, 3, "queued").await?;
    setting.program.succeed(&["parked", "retry", "--id", &uuid(2)]).await?;
    let twice = format!("SELECT attempts = 2 FROM pgoutbox.parked WHERE event_id = '{}'", uuid(2));
    setting.until("the second try to end", &twice).await?;
    let parked = is(&setting, 2, "parked").await?;
    ensure!(parked["tries"].as_array().is_some_and(|tries| tries.len() == 1), "{parked:#}");
    ensure!(parked["tries"][0]["times"] == 2, "{parked:#}");
    let text = setting.program.succeed(&["event", &uuid(2)]).await?;
    ensure!(text.contains("state       parked: returned, 2 tries"), "{text}");

    // What waits behind it is tried at once.
    setting.bind("bad").await?;
    setting
        .program
        .succeed(&["parked", "discard", "--id", &uuid(2), "--yes", "--note", "why"])
        .await?;
    let gone = is(&setting, 2, "discarded").await?;
    ensure!(gone["what"].as_str().is_some_and(|what| what.ends_with(": why")), "{gone:#}");
    setting
        .until(
            "the last to be marked",
            &format!("SELECT relayed_at IS NOT NULL FROM outbox_messages WHERE id = '{}'", uuid(3)),
        )
        .await?;
    is(&setting, 3, "delivered").await?;
    Ok(())
}

/// The marks' place differs by mode; what they say does not.
#[tokio::test]
async fn each_audit_mode_says_what_it_can() -> Result<()> {
    for (mode, wanted) in [("side_table", "delivered"), ("none", "passed"), ("delete", "none")] {
        let settings = Scenario::with(QUICK).set("audit.mode", mode);
        let (setting, _consumer, _relay) = settings.run("good").await?;
        setting.insert(event(1, "good").of("a")).await?;
        wait_until(&format!("{mode} to say {wanted}"), PATIENCE, async || {
            Ok(state(&setting, 1).await?.0 == wanted)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_relay_says_what_it_has_in_memory() -> Result<()> {
    let proxy = Proxy::start(shared::rabbitmq().await?.port()).await?;
    let mut setting = Scenario::with(QUICK).setting().await?;
    let _consumer = setting.bound("good").await?;
    let direct = setting.amqp_url.clone();
    let port = shared::rabbitmq().await?.port();
    setting.env("AMQP_URL", &direct.replace(&format!(":{port}/"), &format!(":{}/", proxy.port())));
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    // What is confirmed is not heard of.
    proxy.stall(Direction::Down);
    setting.insert(event(1, "good").of("a")).await?;
    let path = format!("/event?id={}", uuid(1));
    let mut told = Value::Null;
    wait_until("it to be in flight", PATIENCE, async || {
        told = get(address, &path).await?.json()?;
        Ok(told["events"][0]["state"] == "in_flight")
    })
    .await?;
    let held = &told["events"][0]["relay"];
    ensure!(held["stand"] == "in_flight" && held["routing_key"] == "good", "{told:#}");
    ensure!(told["events"][0]["commit"].as_str().is_some_and(|at| at.contains("+0")), "{told:#}");
    let memory = get(address, &format!("/event?memory&id={}", uuid(1))).await?.json()?;
    ensure!(memory[0]["stand"] == "in_flight", "{memory}");
    proxy.resume(Direction::Down);
    setting.all_marked().await?;
    ensure!(get(address, &path).await?.json()?["events"][0]["state"] == "delivered");
    ensure!(get(address, "/event?id=").await?.code == 400);
    Ok(())
}

#[tokio::test]
async fn events_are_chosen_by_aggregate_and_time() -> Result<()> {
    let (setting, _consumer, relay) = Scenario::with(QUICK).run("good").await?;
    for (number, aggregate) in [(1, "a"), (2, "b"), (3, "a")] {
        setting.insert(event(number, "good").of(aggregate)).await?;
    }
    setting.all_marked().await?;
    let kind: String = setting.ask("SELECT min(aggregate_type) FROM outbox_messages").await?;
    let count = |told: &Value| told["events"].as_array().map_or(0, Vec::len);
    let of_a = told(&setting, &["--aggregate", &format!("{kind}/a")]).await?;
    ensure!(count(&of_a) == 2, "{of_a:#}");
    let one = setting.program.succeed(&["event", &uuid(1)]).await?;
    ensure!(one.contains("its mark alone is kept"), "{one}");
    let lately = told(&setting, &["--since", "1h", "--limit", "2"]).await?;
    ensure!(count(&lately) == 2 && lately["has_more"] == true, "{lately:#}");
    ensure!(count(&told(&setting, &["--until", "2001-01-01"]).await?) == 0);
    setting.insert(event(4, "good").of("")).await?;
    setting.all_marked().await?;
    let of_none = told(&setting, &["--aggregate", &format!("{kind}/")]).await?;
    ensure!(count(&of_none) == 1, "{of_none:#}");
    // What is parked is said of each, also of the latest of an aggregate that has more than are shown.
    for number in [5, 6, 7] {
        setting.insert(event(number, "bad").of("c")).await?;
    }
    setting.parking_is(&relay, "5 parked, 6 queued, 7 queued").await?;
    for chosen in [["--since", "1h"], ["--aggregate", &format!("{kind}/c")]] {
        let told = told(&setting, &[&chosen[..], &["--limit", "2"]].concat()).await?;
        let states: Vec<_> = told["events"].as_array().into_iter().flatten().collect();
        ensure!(states.iter().all(|event| event["state"] == "queued"), "{chosen:?}: {told:#}");
    }
    let nothing = ["event", "--since", "1h", "--until", "2h"];
    ensure!(setting.program.output(&nothing).await?.status.code() == Some(64));
    Ok(())
}

#[tokio::test]
async fn a_line_is_logged_for_each_event_and_outcome() -> Result<()> {
    let settings = Scenario::with(QUICK).set("log.events", "true").set("log.format", "json");
    let (setting, _consumer, relay) = settings.run("good").await?;
    setting.insert(event(1, "good").of("a")).await?;
    setting.insert(event(2, "bad").of("b")).await?;
    setting.insert(event(3, "bad").of("b")).await?;
    setting.parking_is(&relay, "2 parked, 3 queued").await?;
    setting.bind("bad").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    let log = relay.log();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let outcomes = |number| -> Vec<&str> {
        let of = |line: &&Value| line["event_id"] == uuid(number) && line["outcome"].is_string();
        lines.iter().filter(of).filter_map(|line| line["outcome"].as_str()).collect()
    };
    ensure!(outcomes(1) == ["delivered"], "{log}");
    ensure!(outcomes(2) == ["parked", "delivered"], "{log}");
    ensure!(outcomes(3) == ["queued", "delivered"], "{log}");
    let line = |number: u32, outcome: &str| {
        let is_it = |line: &&Value| line["event_id"] == uuid(number) && line["outcome"] == outcome;
        lines.iter().find(is_it).cloned().unwrap_or_default()
    };
    let parked = line(2, "parked");
    ensure!(parked["reason"] == "returned" && parked["routing_key"] == "bad", "{parked}");
    ensure!(line(1, "delivered")["after_seconds"].as_f64().is_some_and(|s| s < 60.0), "{log}");
    ensure!(line(2, "delivered")["attempts"] == 1, "{log}");
    Ok(())
}
