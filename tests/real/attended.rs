//! Commands that take long, as who sits before them sees it: what they will touch before they ask, how far
//! they are, and what was done when they are interrupted.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::proxy::{Cut, Proxy};
use harness::scenario::Scenario;
use harness::{shared, wait_until};

use crate::bare::{arrived, ids, uuid};
use crate::replay::{HASTY, Replays as _};
use crate::setting::{PATIENCE, Setting};

/// What a log says behind these words, up to the end of the line.
fn behind<'a>(told: &'a str, words: &str) -> Result<&'a str> {
    let rest = told.split_once(words).with_context(|| format!("no {words:?} in {told}"))?.1;
    Ok(rest.lines().next().unwrap_or_default().trim())
}

#[tokio::test]
async fn an_interrupted_replay_says_where_it_goes_on_and_then_each_row_came_once() -> Result<()> {
    const ROWS: u32 = 400;
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    setting.fill(ROWS).await?;
    let replay = setting.program.spawn(&["replay", "--all", "--rate", "100"])?;
    arrived(&consumer, 30).await?;
    replay.interrupt()?;
    let status = replay.wait_exit(PATIENCE).await?;
    let log = replay.log();
    assert_eq!(status.code(), Some(69), "{log}");
    let sent: usize =
        behind(&log, "error: SIGINT: ")?.split(' ').next().context("a number")?.parse()?;
    arrived(&consumer, sent).await?;
    assert_eq!(consumer.total(), sent, "{log}");
    assert!((30..ROWS as usize).contains(&sent), "{sent}: {log}");
    assert!(log.contains(&format!("error: SIGINT: {sent} of {ROWS} sent")), "{sent}: {log}");
    assert!(log.contains(&format!("{sent} delivered, 0 refused")), "{log}");
    let after = behind(&log, "go on with the same command and --after ")?;
    let told = setting.replay(0, &["--all", "--rate", "100000", "--after", after]).await?;
    let rest = ROWS as usize - sent;
    assert!(told.contains(&format!("{rest} delivered")), "{told}");
    let came = arrived(&consumer, ROWS as usize).await?;
    assert_eq!(ids(&came), (1..=ROWS).map(uuid).collect::<Vec<_>>(), "each once, in order");
    // A place that is not there: nothing is sent, rather than all or the wrong half.
    let told = setting.replay(64, &["--all", "--after", &uuid(ROWS + 1)]).await?;
    assert!(told.contains("nothing was sent"), "{told}");
    assert_eq!(consumer.total(), ROWS as usize);
    Ok(())
}

#[tokio::test]
async fn a_replay_whose_broker_is_lost_says_the_same() -> Result<()> {
    const ROWS: u32 = 400;
    let mut setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    setting.fill(ROWS).await?;
    let port = shared::rabbitmq().await?.port();
    let proxy = Proxy::start(port).await?;
    let direct = setting.amqp_url.clone();
    let url = direct.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    setting.env("AMQP_URL", &url);
    let replay = setting.program.spawn(&["replay", "--all", "--rate", "100"])?;
    arrived(&consumer, 30).await?;
    proxy.cut(Cut::Rst);
    let status = replay.wait_exit(PATIENCE).await?;
    let log = replay.log();
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains(" of 400 sent"), "{log}");
    let after = behind(&log, "go on with the same command and --after ")?.to_owned();
    setting.env("AMQP_URL", &direct);
    setting.replay(0, &["--all", "--rate", "100000", "--after", &after]).await?;
    let wanted: Vec<String> = (1..=ROWS).map(uuid).collect();
    wait_until("all of them", PATIENCE, async || {
        let mut came = consumer.deliveries(ids);
        came.sort_unstable();
        came.dedup();
        Ok(came == wanted)
    })
    .await
}

#[tokio::test]
async fn who_sits_there_sees_what_is_sent_before_it_is() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    let consumer = setting.bound("#").await?;
    setting.fill(60).await?;
    let replay = ["replay", "--all", "--rate", "30"];
    let (code, told) = setting.program.typed(&replay, "n\n").await?;
    assert_eq!(code, Some(1), "{told}");
    for wanted in [
        &format!("  {}  order/1", uuid(1)),
        "… and 50 more: --dry-run lists all",
        "send 60 events once more, 30 a second? [y/N]",
        "nothing was sent",
    ] {
        assert!(told.contains(wanted), "no {wanted:?} in {told}");
    }
    assert_eq!(consumer.total(), 0);
    let (code, told) = setting.program.typed(&replay, "y\n").await?;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("60 delivered"), "{told}");
    // A line that is written over, and taken away at the end.
    assert!(told.contains("\r\u{1b}[Kreplay: ") && told.contains(" of 60, "), "{told:?}");
    assert!(told.contains("s left"), "{told:?}");
    assert!(told.trim_end().ends_with("0 marked"), "{told:?}");
    arrived(&consumer, 60).await?;
    // Scripts are asked nothing: neither with a terminal, nor without.
    let (code, told) = setting.program.typed(&["replay", "--all", "--yes"], "").await?;
    assert!(code == Some(0) && !told.contains("[y/N]"), "{told}");
    let told = setting.replay(0, &["--all", "--rate", "100000"]).await?;
    assert!(!told.contains("[y/N]") && !told.contains('\u{1b}'), "{told}");
    Ok(())
}

/// Parked, each of its aggregate, the first of them as its head.
async fn park(setting: &Setting, events: u32, aggregate: &str) -> Result<()> {
    setting
        .sql(&format!(
            "INSERT INTO pgoutbox.parked (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time,
                                          state, is_holding, reason, columns, cells)
             SELECT current_database(), 'outbox_messages', 'e' || n, 'order', {aggregate}, '0/1', n, now(),
                    'parked', true, 'returned', '[]', '{{}}'
               FROM generate_series(1, {events}) AS n ORDER BY n"
        ))
        .await
}

#[tokio::test]
async fn an_interrupted_discard_frees_nothing_that_it_was_to_discard() -> Result<()> {
    let setting = Setting::shared().await?;
    // One aggregate: the first is tried, the others wait behind it.
    park(&setting, 2_500, "'7'").await?;
    // The last thousand goes first; in the next, somebody holds a row.
    let holder = setting.client().await?;
    holder
        .batch_execute("BEGIN; SELECT FROM pgoutbox.parked WHERE event_id = 'e1200' FOR UPDATE")
        .await?;
    let discard = setting.program.spawn(&["parked", "discard", "--all", "--yes"])?;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%discarded%'";
    setting.until("it to wait", waits).await.with_context(|| discard.log())?;
    discard.interrupt()?;
    let caught = format!("/proc/{}/status", discard.pid());
    // The signal is taken before the lock is gone: else all would be done in time.
    wait_until("the signal to be taken", PATIENCE, async || {
        let status = std::fs::read_to_string(&caught)?;
        let pending =
            status.lines().filter(|line| line.starts_with("SigPnd") || line.starts_with("ShdPnd"));
        Ok(pending.into_iter().all(|line| line.ends_with("0000000000000000")))
    })
    .await?;
    holder.batch_execute("ROLLBACK").await?;
    let status = discard.wait_exit(PATIENCE).await?;
    let log = discard.log();
    assert_eq!(status.code(), Some(69), "{log}");
    assert!(log.contains("SIGINT: 2,000 of 2,500 discarded"), "{log}");
    assert!(log.contains("2,000 events discarded\n"), "{log}");
    assert!(!log.contains("tried now"), "{log}");
    let head = "SELECT bool_and(state <> 'discarded') AND count(*) = 500 FROM pgoutbox.parked WHERE index <= 500";
    assert!(setting.ask::<bool>(head).await?, "the last of them went first");
    let told = setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    assert!(told.contains("500 events discarded, of which 499 only wait"), "{told}");
    Ok(())
}

#[tokio::test]
async fn who_discards_sees_what_before_it_is_asked() -> Result<()> {
    let setting = Setting::shared().await?;
    park(&setting, 1_300, "n % 13").await?;
    let discard = ["parked", "discard", "--all"];
    let (code, told) = setting.program.typed(&discard, "n\n").await?;
    assert_eq!(code, Some(1), "{told}");
    for wanted in [
        "  e1  order/1  returned",
        "… and 1,290 more: pgoutbox parked list --waiting lists them",
        "discard 1,300 events of 13 aggregates, of which 1,287 only wait behind another and were never tried? They are not delivered; [y/N]",
        "nothing was discarded",
    ] {
        assert!(told.contains(wanted), "no {wanted:?} in {told}");
    }
    let (code, told) = setting.program.typed(&discard, "y\n").await?;
    assert!(code == Some(0) && told.contains("1,300 events discarded"), "{told}");
    Ok(())
}

#[tokio::test]
async fn who_prunes_sees_what_goes_before_it_does() -> Result<()> {
    let setting = Setting::shared().await?;
    let old = "INSERT INTO outbox_messages (topic, payload, relayed_at)
               SELECT 't', '{}', '2026-01-01' FROM generate_series(1, 30)";
    setting.sql(old).await?;
    let prune = ["prune", "--keep", "1h"];
    let (code, told) = setting.program.typed(&prune, "n\n").await?;
    assert_eq!(code, Some(1), "{told}");
    let wanted = "outbox_messages: 30 rows would be deleted";
    assert!(told.contains(wanted) && told.contains("[y/N]"), "{told}");
    let rows = "SELECT count(*) FROM outbox_messages";
    assert_eq!(setting.ask::<i64>(rows).await?, 30);
    let (code, told) = setting.program.typed(&prune, "y\n").await?;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(setting.ask::<i64>(rows).await?, 0);
    // With nothing to delete there is nothing to ask.
    let (code, told) = setting.program.typed(&prune, "").await?;
    assert!(code == Some(0) && !told.contains("[y/N]"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_catch_up_says_how_fast_it_goes_and_how_long_it_takes() -> Result<()> {
    let setting = Setting::shared().await?.set("window.messages", "20");
    let port = shared::rabbitmq().await?.port();
    let proxy = Proxy::start(port).await?;
    let mut setting = setting;
    let url = setting.amqp_url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    setting.env("AMQP_URL", &url);
    let _consumer = setting.counting_consumer().await?;
    setting.ask::<String>("SELECT pg_drop_replication_slot(current_database())::text").await?;
    setting
        .sql("INSERT INTO outbox_messages (topic, payload) SELECT 'good', '{}' FROM generate_series(1, 20000)")
        .await?;
    proxy.delay(Duration::from_millis(50), harness::proxy::Direction::Down);
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    wait_until("its pace", PATIENCE, async || {
        let told = harness::http::get(address, "/status").await?.json()?;
        let pace = &told["catch_up"];
        Ok(pace["per_second"].as_f64() > Some(0.0) && pace["left_seconds"].as_u64() > Some(0))
    })
    .await
    .with_context(|| relay.log())?;
    let live = setting.clone().set("http.address", &address.to_string());
    let told = live.program.output(&["status"]).await?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(" of 20,000 rows are published"), "{told}");
    assert!(told.contains(" rows/s, ") && told.contains(" left"), "{told}");
    let line = relay.wait_for_log("catching up: so far", PATIENCE).await?;
    assert!(line.contains("rows=20000") && line.contains("left="), "{line}");
    relay.kill9().await
}

#[tokio::test]
async fn check_and_verify_begin_with_a_line_that_says_all_of_it() -> Result<()> {
    let setting = Setting::shared().await?;
    let _consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let first = |told: &str| told.lines().next().unwrap_or_default().to_owned();
    let told = setting.program.succeed(&["verify"]).await?;
    assert_eq!(first(&told), "ok        accounted: 0 committed, 0 of them parked, 0 waiting");
    let (code, told) = setting.program.typed(&["verify"], "").await?;
    assert!(
        code == Some(0) && told.starts_with("\u{1b}[32mok        \u{1b}[0maccounted: "),
        "{told:?}"
    );
    let nowhere = setting.clone().set("tables.0.exchange", "nowhere");
    let output = nowhere.program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(first(&told).starts_with("down    exchange-missing: 1 error, "), "{told}");
    assert!(!told.contains('\u{1b}'), "{told:?}");
    let (_, told) = nowhere.program.typed(&["check"], "").await?;
    assert!(told.starts_with("\u{1b}[1;31mdown    \u{1b}[0mexchange-missing: "), "{told:?}");
    let mut plain = nowhere.clone();
    plain.env("NO_COLOR", "1");
    let (_, told) = plain.program.typed(&["check"], "").await?;
    assert!(told.starts_with("down    exchange-missing: "), "{told:?}");
    relay.drain(PATIENCE).await
}
