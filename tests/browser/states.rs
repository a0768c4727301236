//! What the console tells in each state that an operator may find the relay in.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::browser::{Browser, Page};
use harness::proxy::{Cut, Direction, Proxy};
use harness::{shared, wait_until};

use crate::{axe, no_complaints, picture, readable};
use harness::setting::arrived;
use harness::setting::{PATIENCE, Setting};

/// Words that lie over one another, within a plot or between the cells of a row.
const OVERLAPS: &str = "(() => {
    const found = [];
    const look = (all) => {
        const boxes = all.filter((one) => one.textContent.trim()).map((one) => [one.getBoundingClientRect(), one.textContent]);
        boxes.forEach(([a, one], at) => boxes.slice(at + 1).forEach(([b, other]) => {
            if (a.width && b.width && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1) {
                found.push(one + ' / ' + other);
            }
        }));
    };
    document.querySelectorAll('svg').forEach((svg) => look([...svg.querySelectorAll('text')]));
    document.querySelectorAll('#parked-rows tr').forEach((row) => look([...row.cells]));
    document.querySelectorAll('figcaption, header, .card').forEach((one) => look([...one.children]));
    return found.slice(0, 5).join('; ');
})()";

/// Looks at the page at each width and in both colours, once `ready` is true of it.
async fn look(browser: &Browser, address: SocketAddr, name: &str, ready: &str) -> Result<()> {
    for (look, width, is_dark) in
        [("light", 1200, false), ("dark", 1200, true), ("phone", 390, false)]
    {
        let page = browser.open(&format!("http://{address}/"), width, is_dark).await?;
        page.until(ready).await.context(name.to_owned())?;
        page.until("document.querySelectorAll('#plot-rate polyline').length > 0").await?;
        page.screenshot(&picture(&format!("{name}-{look}"))).await?;
        let wide = page.ask("document.documentElement.scrollWidth - innerWidth").await?;
        assert!(wide.as_i64() <= Some(0), "{name}, {look}: {wide} px wider than the screen");
        assert_eq!(page.ask(OVERLAPS).await?, "", "{name}, {look}");
        // A browser holds six connections to one host, and each page keeps one.
        page.ask("void setTimeout(() => location.replace('about:blank'))").await?;
    }
    no_complaints(browser).await
}

fn says(id: &str, part: &str) -> String {
    format!("document.getElementById('{id}').textContent.includes('{part}')")
}

async fn insert(setting: &Setting, rows: u32) -> Result<()> {
    let sql = format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic, payload)
         SELECT 'order', 'a-' || n, 'order.placed', '{{}}' FROM generate_series(1, {rows}) n"
    );
    setting.sql(&sql).await
}

/// With RabbitMQ behind a proxy.
async fn proxied() -> Result<(Proxy, Setting)> {
    let mut setting = Setting::shared().await?.set("guard.interval", "100ms");
    let port = shared::rabbitmq().await?.port();
    let proxy = Proxy::start(port).await?;
    let url = setting.amqp_url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    setting.env("AMQP_URL", &url);
    Ok((proxy, setting))
}

#[tokio::test]
async fn a_standby_and_a_pause() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let consumer = setting.consumer().await?;
    let leader = setting.run()?;
    let leads = leader.http(PATIENCE).await?;
    leader.reaches("running", PATIENCE).await?;
    let standby = setting.run()?;
    let waits = standby.http(PATIENCE).await?;
    let browser = Browser::start().await?;
    look(&browser, waits, "standby", &says("state", "Standby")).await?;
    standby.drain(PATIENCE).await?;

    setting.program.succeed(&["pause", "--note", "migration of the orders"]).await?;
    let paused = says("state", "Paused");
    let page = browser.open(&format!("http://{leads}/"), 1200, false).await?;
    page.until(&paused).await?;
    insert(&setting, 2000).await?;
    look(&browser, leads, "paused", &format!("{paused} && {}", says("why", "migration"))).await?;
    setting.program.succeed(&["resume"]).await?;
    page.until(&says("state", "Running")).await?;
    arrived(&consumer, 2000).await?;
    leader.drain(PATIENCE).await
}

#[tokio::test]
async fn a_catch_up_and_a_broker_that_is_gone() -> Result<()> {
    let (proxy, setting) = proxied().await?;
    let setting = setting.set("window.messages", "100").set("session.backoff_min", "1m");
    let setting = setting
        .set("amqp.heartbeat", "60s")
        .set("amqp.confirm_timeout", "5m")
        .set("session.backoff_max", "10m");
    let _consumer = setting.consumer().await?;
    let drop = format!("SELECT pg_drop_replication_slot('{}')::text", setting.database);
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    setting.ask::<String>(&drop).await?;
    insert(&setting, 5000).await?;
    proxy.delay(Duration::from_millis(50), Direction::Down);
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    wait_until("a part of it", PATIENCE, async || {
        let told = harness::http::get(address, "/status").await?.json()?;
        Ok(told["catch_up"]["done"].as_u64() > Some(100))
    })
    .await?;
    proxy.stall(Direction::Down);
    let browser = Browser::start().await?;
    let state =
        format!("{} && {}", says("state", "Catching up"), says("catch-up-rows", "of 5,000"));
    look(&browser, address, "catch-up", &state).await.with_context(|| relay.log())?;

    proxy.refuse(true);
    proxy.cut(Cut::Rst);
    let state = format!("{} && {}", says("state", "Waiting"), says("why", "tried again in"));
    look(&browser, address, "no-broker", &state).await.with_context(|| relay.log())?;
    relay.kill9().await
}

#[tokio::test]
async fn hundreds_of_parked_events() -> Result<()> {
    let setting = Setting::shared().await?.set("guard.interval", "100ms");
    let setting = setting.set("parking.backoff_min", "5m").set("parking.limit", "1000");
    let setting = setting.set("http.token", "correct-horse");
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    // No queue is bound.
    insert(&setting, 350).await?;
    insert(&setting, 40).await?;
    setting
        .until("all to be parked", "SELECT count(*) = 390 FROM pgoutbox.parked")
        .await
        .with_context(|| relay.log())?;
    setting.sql("UPDATE pgoutbox.parked SET state = 'failed', attempts = 10 WHERE seq % 9 = 0 AND state = 'parked'").await?;
    let browser = Browser::start().await?;
    for (name, width, is_dark) in
        [("light", 1200, false), ("dark", 1200, true), ("phone", 390, false)]
    {
        let page = browser.open(&format!("http://{address}/"), width, is_dark).await?;
        open(&page).await?;
        page.until("document.querySelectorAll('#parked-rows tr').length === 100").await?;
        page.until(&says("parked-count", "390")).await?;
        // The reason once, with its hint once; what waits is folded under what it waits for.
        let groups = page.text("parked-groups").await?;
        assert!(
            groups.contains("350 events, 38 failed; 40 more wait behind")
                || groups.contains("; 40 more wait behind"),
            "{groups}"
        );
        assert_eq!(page.ask("document.querySelectorAll('#parked-groups code').length").await?, 1);
        let hints = page.ask("document.querySelectorAll('#parked-rows code').length").await?;
        assert_eq!(hints, 0, "what is said above is not said of each");
        page.screenshot(&picture(&format!("parked-{name}"))).await?;
        let wide = page.ask("document.documentElement.scrollWidth - innerWidth").await?;
        assert!(wide.as_i64() <= Some(0), "{name}: {wide} px wider than the screen");
        assert_eq!(page.ask(OVERLAPS).await?, "", "{name}");
    }
    no_complaints(&browser).await?;
    relay.drain(PATIENCE).await
}

/// Found, folded and paged through, from the keyboard alone.
#[tokio::test]
async fn a_hundred_thousand_parked_events() -> Result<()> {
    let setting =
        Setting::shared().await?.set("guard.interval", "1s").set("http.token", "correct-horse");
    // Two reasons; every tenth aggregate has nine that wait behind its first.
    setting
        .sql(
            "INSERT INTO pgoutbox.parked (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time,
                                          next_attempt_at, state, is_holding, reason, last_error, hint, columns, cells)
             SELECT current_database(), 'outbox_messages', 'event-' || n, 'order', n / 10, '0/1', n, now(), now() + interval '1 hour',
                    'parked', true, CASE WHEN n / 10 % 2 = 0 THEN 'returned' ELSE 'nacked' END, 'no queue took it', 'bind a queue', '[]', '{}'
               FROM generate_series(1, 100000) AS n;
             ANALYZE pgoutbox.parked",
        )
        .await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    let browser = Browser::start().await?;
    let page = browser.open(&format!("http://{address}/"), 1200, false).await?;
    open(&page).await?;
    let began = std::time::Instant::now();
    page.until("document.querySelectorAll('#parked-rows tr').length === 100").await?;
    println!("the first page of 100,000 after {:?}", began.elapsed());
    page.until(&says("parked-said", "1 to 100 of 10,001, the oldest first")).await?;
    page.until(&says("parked-count", "100,000")).await?;
    let groups = page.ask("[...document.querySelectorAll('#parked-groups li')].map((one) => one.textContent).join('|')").await?;
    let groups = groups.as_str().context("groups")?.to_owned();
    assert!(groups.contains("returned5,001 events; 44,999 more wait behind"), "{groups}");
    assert!(groups.contains("nacked5,000 events; 45,000 more wait behind"), "{groups}");
    // Unfolded, by the keyboard.
    let fold = "document.querySelector('#parked-rows tr:nth-child(2) .fold')";
    page.ask(&format!("{fold}.focus()")).await?;
    page.press("Enter").await?;
    page.until("document.querySelectorAll('#parked-rows tr.follower').length === 9").await?;
    assert_eq!(page.ask(&format!("{fold}.getAttribute('aria-expanded')")).await?, "true");
    page.ask(&axe()?).await?;
    readable(&page, "a hundred thousand, some unfolded").await?;
    page.press("Enter").await?;
    page.until("document.querySelectorAll('#parked-rows tr.follower').length === 0").await?;
    // The next page, and back.
    page.click("page-next").await?;
    page.until(&says("parked-said", "101 to 200 of 10,001")).await?;
    page.click("page-first").await?;
    page.until(&says("parked-said", "1 to 100 of 10,001")).await?;
    // One reason only.
    page.ask("[...document.querySelectorAll('#parked-groups button')].find((one) => one.textContent === 'nacked').click()").await?;
    page.until("[...document.querySelectorAll('#parked-rows tr')].every((row) => row.textContent.includes('nacked'))").await?;
    page.until("document.querySelector('#parked-groups button[aria-pressed=true]').textContent === 'nacked'").await?;
    // A part of an id, also of one that waits.
    page.write("search-text", "EVENT-77777").await?;
    let began = std::time::Instant::now();
    page.ask("document.getElementById('search-text').focus()").await?;
    page.press("Enter").await?;
    page.until("document.querySelectorAll('#parked-rows tr').length === 1").await?;
    println!("one of 100,000 is found after {:?}", began.elapsed());
    page.until(
        "document.querySelector('#parked-rows tr').textContent.includes('waits behind another')",
    )
    .await?;
    page.click("search-all").await?;
    page.until(&says("parked-said", "1 to 100 of 10,001")).await?;
    no_complaints(&browser).await?;
    relay.kill9().await
}

/// What was not delivered, and when, is seen behind the plots; what happened then is told once.
#[tokio::test]
async fn an_outage_is_shaded() -> Result<()> {
    let (proxy, setting) = proxied().await?;
    let setting = setting.set("session.backoff_max", "1s");
    let _consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    relay.reaches("running", PATIENCE).await?;
    proxy.refuse(true);
    proxy.cut(Cut::Rst);
    insert(&setting, 50).await?;
    relay.is_down("fault", PATIENCE).await?;
    let browser = Browser::start().await?;
    let page = browser.open(&format!("http://{address}/"), 1200, false).await?;
    let band = "document.querySelector('#plot-rate .band.bad')";
    page.until(&format!("{band} !== null")).await?;
    page.until(&says("bands", "fault for")).await?;
    proxy.refuse(false);
    page.until(&says("state", "Running")).await?;
    relay.is_ready(PATIENCE).await?;
    // It stays where it was, and the plot goes on.
    page.until(&format!("{band}.getBoundingClientRect().right < document.getElementById('plot-rate').getBoundingClientRect().right - 8")).await?;
    let state = format!("{} && {band} !== null", says("state", "Running"));
    look(&browser, address, "outage", &state).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// Shows the token.
async fn open(page: &Page<'_>) -> Result<()> {
    page.until("!document.getElementById('gate').hidden").await?;
    page.write("gate-token", "correct-horse").await?;
    page.click("gate-open").await
}

#[tokio::test]
async fn streams_have_a_table() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming("orders").await?;
    let (relay, address) = setting.set("guard.interval", "100ms").serve().await?;
    let browser = Browser::start().await?;
    let row = "document.querySelector('#streams-rows tr')";
    let leader =
        format!("{row} && {row}.cells[1].textContent.endsWith(':{}')", rabbitmq.stream_port());
    look(&browser, address, "streams", &leader).await?;
    relay.drain(PATIENCE).await
}
