//! The console in a headless Chromium, served by a real relay between real servers.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    reason = "a test binary has no readers of its API"
)]

mod states;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::browser::{Browser, Page};
use harness::events::event;
use harness::npm;
use harness::workload::Workload;

use harness::setting::{PATIENCE, Setting, arrived, steady, uuid};

const TOKEN: &str = "correct-horse-battery-staple";

/// Pictures that the manual shows: PGOUTBOX_WRITE=1 makes them anew.
const KEPT: [&str; 12] = [
    "busy",
    "gate",
    "ask",
    "event",
    "standby-light",
    "paused-light",
    "catch-up-light",
    "no-broker-light",
    "outage-light",
    "parked-light",
    "parked-dark",
    "parked-phone",
];

fn picture(name: &str) -> PathBuf {
    if std::env::var_os("PGOUTBOX_WRITE").is_some() && KEPT.contains(&name) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
        let _ = std::fs::create_dir_all(&folder);
        return folder.join(format!("console-{name}.png"));
    }
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("console-{name}.png"))
}

/// A number on the page, its thousands' commas taken out.
async fn number(page: &Page<'_>, id: &str) -> Result<u64> {
    let text = page.text(id).await?;
    let digits: String =
        text.chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
    digits.parse().with_context(|| text)
}

async fn no_complaints(browser: &Browser) -> Result<()> {
    let complaints = browser.complaints();
    anyhow::ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

#[tokio::test]
async fn shows_what_the_relay_does_and_stays_live() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let consumer = setting.consumer().await?;
    let (relay, address) = setting.serve().await?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    let browser = Browser::start().await?;
    let page = browser.open(&format!("http://{address}/"), 1200, false).await?;
    page.until("document.getElementById('state').textContent === 'Running'").await?;
    page.until("document.getElementById('link').textContent === 'live'").await?;
    assert!(page.text("slot-name").await?.starts_with(&setting.database));
    assert_eq!(page.text("why").await?, "reads the stream");
    page.until("document.getElementById('window-of').textContent.startsWith('of 1,000 ')").await?;
    page.until("document.getElementById('headroom').textContent.startsWith('slot reserved')")
        .await?;
    assert_eq!(page.ask("document.querySelectorAll('#changes li').length").await?, 2);
    // Without being loaded again, and told by the stream: after a silence the page connects again,
    // and would be told that way too.
    page.ask(
        "(() => { window.links = []; const link = document.getElementById('link'); \
         new MutationObserver(() => window.links.push(link.textContent)) \
         .observe(link, { childList: true, characterData: true, subtree: true }); })()",
    )
    .await?;
    let before = number(&page, "delivered").await?;
    page.ask("window.isTheSame = true").await?;
    page.until(&format!(
        "parseInt(document.getElementById('delivered').textContent.replace(/,/g, '')) > {before} + 20"
    ))
    .await?;
    assert_eq!(page.ask("window.isTheSame").await?, true);
    assert_eq!(page.ask("window.links.join()").await?, "", "the stream went on");
    for plot in ["plot-rate", "plot-latency", "plot-lag"] {
        page.until(&format!("document.querySelectorAll('#{plot} polyline').length > 0")).await?;
    }
    page.until("/^[1-9].* \\/s$/.test(document.getElementById('rate').textContent)").await?;
    page.until("/ms|µs/.test(document.getElementById('latency').textContent)").await?;
    page.until("document.querySelector('#plot-rate polyline').getAttribute('points').split(' ').length >= 4").await?;
    page.screenshot(&picture("busy")).await?;
    let table = "document.querySelector('#tables-rows tr')";
    page.until(&format!("{table} && {table}.cells[2].textContent.endsWith('/s')")).await?;
    let cells =
        page.ask(&format!("[...{table}.cells].map((cell) => cell.textContent).join('|')")).await?;
    let cells = cells.as_str().context("cells")?.to_owned();
    anyhow::ensure!(cells.starts_with("public.outbox_messages|outbox|"), "{cells}");
    // No token is set: nothing can be done from here.
    setting.put_aside(7, "failed").await?;
    page.until("document.querySelectorAll('#parked-rows tr').length === 1").await?;
    assert_eq!(page.ask("document.getElementById('parked-tools').hidden").await?, true);
    setting.sql("DELETE FROM pgoutbox.parked").await?;
    page.until("document.getElementById('parked-count').textContent === '0'").await?;
    setting.judge_load(load, consumer, &relay, 0).await?;
    // The relay has ended.
    page.until("document.getElementById('link').className === 'offline'").await?;
    no_complaints(&browser).await
}

/// Scripts in whatever an event brings along.
const BAD: &str = r#"<script>window.pwned=1</script><img src=x onerror="window.pwned=2">'"&lt;"#;

#[tokio::test]
async fn data_of_events_stays_text() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let (relay, address) = setting.serve().await?;
    for number in 1..=3 {
        setting.put_aside(number, "failed").await?;
    }
    let client = setting.client().await?;
    let sql =
        "UPDATE pgoutbox.parked SET event_id = $1 || seq, aggregate_type = $1, aggregate_id = $1,
        reason = $1, last_error = $1, hint = $1";
    client.execute(sql, &[&BAD]).await?;
    let browser = Browser::start().await?;
    for (name, width, is_dark) in
        [("light", 1200, false), ("dark", 1200, true), ("phone", 390, false)]
    {
        let page = browser.open(&format!("http://{address}/"), width, is_dark).await?;
        page.until("document.querySelectorAll('#parked-rows tr').length === 3").await?;
        page.until("document.querySelectorAll('#plot-lag polyline').length > 0").await?;
        let bad = serde_json::Value::from(BAD);
        for column in [1, 2, 4] {
            let cell = format!("document.querySelector('#parked-rows tr').cells[{column}]");
            let held = page.ask(&format!("{cell}.textContent.includes({bad})")).await?;
            assert_eq!(held, true, "column {column} shows it as it is");
        }
        let groups = page.text("parked-groups").await?;
        assert!(groups.contains(BAD), "{groups}");
        let made = page.ask("document.querySelectorAll('main script, main img, [onerror]').length");
        assert_eq!(made.await?, 0);
        assert_eq!(page.ask("typeof window.pwned").await?, "undefined");
        let wide = page.ask("document.documentElement.scrollWidth - innerWidth").await?;
        assert!(wide.as_i64() <= Some(0), "{name}: {wide} px wider than the screen");
        page.screenshot(&picture(name)).await?;
        // The page's own policy would stop it, should it ever come to that.
        let inserted = page.ask("(() => { try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (error) { return error.name } })()");
        assert_eq!(inserted.await?, "TypeError");
    }
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn data_and_actions_need_the_token() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms").set("http.token", TOKEN);
    // Not by itself while we watch.
    let setting = setting.set("parking.backoff_min", "5m");
    let (relay, address) = setting.serve().await?;
    // No queue is bound.
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    setting.put_aside(9, "failed").await?;
    setting.until("it to be parked", "SELECT count(*) = 2 FROM pgoutbox.parked").await?;
    let browser = Browser::start().await?;
    let page = browser.open(&format!("http://{address}/"), 1200, false).await?;
    page.until("!document.getElementById('gate').hidden").await?;
    assert_eq!(page.ask("document.getElementById('data').hidden").await?, true);
    let text = page.ask("document.body.textContent").await?;
    assert!(
        !text.as_str().context("text")?.contains(&setting.database),
        "no data without the token"
    );
    page.screenshot(&picture("gate")).await?;
    page.write("gate-token", "wrong").await?;
    page.click("gate-open").await?;
    page.until("document.getElementById('gate-said').textContent === 'That is not the token.'")
        .await?;
    page.write("gate-token", TOKEN).await?;
    page.click("gate-open").await?;
    page.until("!document.getElementById('data').hidden").await?;
    page.until("document.querySelectorAll('#parked-rows tr').length === 2").await?;
    let stored = page.ask(
        "JSON.stringify([Object.keys(localStorage), Object.keys(sessionStorage), document.cookie])",
    );
    assert_eq!(stored.await?, "[[],[],\"\"]", "it is kept in memory only");

    // Bound now, and tried again at once.
    let consumer = setting.consumer().await?;
    let choose = |text: &str| {
        format!(
            "[...document.querySelectorAll('#parked-rows tr')].find((row) => row.textContent.includes('{text}')).querySelector('input').click()"
        )
    };
    page.ask(&choose("returned")).await?;
    page.click("retry").await?;
    page.until("document.getElementById('ask').open").await?;
    assert_eq!(page.text("ask-title").await?, "Retry 1 event?");
    page.screenshot(&picture("ask")).await?;
    page.click("ask-no").await?;
    assert_eq!(page.ask("document.getElementById('ask').open").await?, false);
    page.click("retry").await?;
    page.click("ask-yes").await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    let line = relay.wait_for_log("an action of the console", PATIENCE).await?;
    assert!(line.contains("remote=127.0.0.1:") && line.contains("action=\"Retry ["), "{line}");

    page.until("document.querySelectorAll('#parked-rows tr').length === 1").await?;
    page.ask(&choose(&uuid(9))).await?;
    page.click("discard").await?;
    page.write("ask-note", "twice").await?;
    page.click("ask-yes").await?;
    page.until("document.querySelectorAll('#parked-rows tr').length === 0").await?;
    setting
        .until(
            "the record of it",
            "SELECT count(*) = 1 FROM pgoutbox.parked WHERE state = 'discarded' AND note = 'console, 127.0.0.1: twice'",
        )
        .await?;
    assert!(!relay.log().contains(TOKEN));
    no_complaints(&browser).await?;
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn an_event_is_found_by_its_id() -> Result<()> {
    let setting = Setting::shared().await?.set("parking.backoff_min", "5m");
    let (relay, address) = setting.serve().await?;
    // No queue is bound.
    setting.insert(event(1, BAD_TOPIC).of("a")).await?;
    setting.until("it to be parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    let browser = Browser::start().await?;
    let page = browser.open(&format!("http://{address}/"), 1200, false).await?;
    page.until("!document.getElementById('data').hidden").await?;
    page.write("find-id", &uuid(1)).await?;
    page.click("find-go").await?;
    page.until("document.querySelectorAll('#found article').length === 1").await?;
    let told = page.text("found").await?;
    for wanted in ["parked: returned", BAD_TOPIC, "order/a", "outbox"] {
        anyhow::ensure!(told.contains(wanted), "{wanted} is not in {told}");
    }
    page.screenshot(&picture("event")).await?;
    page.write("find-id", &uuid(2)).await?;
    page.click("find-go").await?;
    page.until("document.getElementById('find-said').textContent.startsWith('no outbox table')")
        .await?;
    assert_eq!(page.ask("document.querySelectorAll('#found article').length").await?, 0);
    no_complaints(&browser).await?;
    relay.drain(PATIENCE).await
}

/// What is shown as text, also where an event's routing key is no name.
const BAD_TOPIC: &str = "no.queue.<b>takes</b>.it";

/// A library that finds what keeps people with a screen reader, a keyboard or weak eyes from reading.
const AXE: &str = "axe-core@4.10.2";

#[tokio::test]
async fn everybody_can_read_it() -> Result<()> {
    let axe = axe()?;
    let setting = Setting::shared().await?.set("guard.interval", "100ms").set("http.token", TOKEN);
    let (relay, address) = setting.serve().await?;
    setting.put_aside(1, "failed").await?;
    setting.put_aside(2, "parked").await?;
    // The second waits behind the first.
    let queue = "UPDATE pgoutbox.parked SET is_holding = true, aggregate_type = 'order', aggregate_id = '7'";
    setting.sql(queue).await?;
    let browser = Browser::start().await?;
    for (name, width, is_dark) in
        [("light", 1200, false), ("dark", 1200, true), ("phone", 390, false)]
    {
        let page = browser.open(&format!("http://{address}/"), width, is_dark).await?;
        page.until("!document.getElementById('gate').hidden").await?;
        page.ask(&axe).await?;
        readable(&page, &format!("{name}, the gate")).await?;
        page.write("gate-token", TOKEN).await?;
        page.click("gate-open").await?;
        page.until("document.querySelectorAll('#parked-rows tr').length === 1").await?;
        page.write("find-id", &uuid(1)).await?;
        page.click("find-go").await?;
        page.until("document.querySelectorAll('#found article').length === 1").await?;
        // By the keyboard.
        page.ask("document.querySelector('#parked-rows .fold').focus()").await?;
        page.press("Enter").await?;
        page.until("document.querySelectorAll('#parked-rows tr').length === 2").await?;
        readable(&page, name).await?;
        page.ask("document.querySelector('#parked-rows input').click()").await?;
        page.click("discard").await?;
        page.until("document.getElementById('ask').open").await?;
        readable(&page, &format!("{name}, the question")).await?;
    }
    relay.drain(PATIENCE).await
}

fn axe() -> Result<String> {
    let folder = npm::installed(Path::new(env!("CARGO_TARGET_TMPDIR")), AXE)?;
    Ok(std::fs::read_to_string(folder.join("node_modules/axe-core/axe.min.js"))?)
}

/// Nothing of it is serious.
async fn readable(page: &Page<'_>, name: &str) -> Result<()> {
    let found = page
        .ask(
            "axe.run(document, { resultTypes: ['violations'] }).then((told) => JSON.stringify(told.violations \
             .filter((one) => ['serious', 'critical'].includes(one.impact)) \
             .map((one) => [one.id, one.help, one.nodes.map((node) => node.html.slice(0, 120) + ' ' + node.failureSummary)])))",
        )
        .await?;
    anyhow::ensure!(found == "[]", "{name}: {found}");
    Ok(())
}
