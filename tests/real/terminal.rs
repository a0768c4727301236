//! What events hold reaches no terminal raw: neither by a command nor by a log.

use anyhow::{Result, ensure};
use harness::http::request;
use harness::wait_until;
use pgoutbox::testing::text::is_harmful;

use crate::setting::{PATIENCE, Setting};

/// Sets the title, clears the screen, begins a line, colours by C1, turns the direction of writing.
const HOSTILE: &str = "a\u{1b}]0;owned\u{7}\u{1b}[2J\nFAKE line\u{9b}31m\u{7f}\u{202e}b";

fn is_clean(what: &str, told: &str) -> Result<()> {
    let raw: Vec<char> = told.chars().filter(|c| *c != '\n' && is_harmful(*c)).collect();
    ensure!(raw.is_empty(), "{what} shows {raw:?} raw:\n{told:?}");
    let faked = told.lines().any(|line| line.starts_with("FAKE"));
    ensure!(!faked, "{what} begins a line with an event's text:\n{told}");
    Ok(())
}

async fn commit(setting: &Setting) -> Result<()> {
    let sql = "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
               VALUES ($1, $1, $1, '1')";
    setting.client().await?.execute(sql, &[&HOSTILE]).await?;
    Ok(())
}

#[tokio::test]
async fn no_text_of_an_event_acts_on_a_terminal() -> Result<()> {
    for format in ["text", "json"] {
        let setting = Setting::shared().await?.set("log.format", format).set("log.level", "trace");
        let relay = setting.run()?;
        // No queue is bound: it is parked, and the second one waits behind it.
        commit(&setting).await?;
        commit(&setting).await?;
        let parked = "SELECT count(*) = 2 FROM pgoutbox.parked";
        wait_until("both to be parked", PATIENCE, async || setting.ask::<bool>(parked).await)
            .await?;
        relay.drain(PATIENCE).await?;
        is_clean(&format!("the log as {format}"), &relay.log())?;
        let sql = "UPDATE pgoutbox.parked SET last_error = aggregate_id, hint = aggregate_id,
                          reason = aggregate_id, changed_by = aggregate_id, note = aggregate_id";
        setting.sql(sql).await?;
        let seq: i64 = setting.ask("SELECT min(seq) FROM pgoutbox.parked").await?;
        let seq = seq.to_string();
        let commands: [&[&str]; 11] = [
            &["parked", "list"],
            &["parked", "list", "--waiting"],
            &["parked", "list", "--json"],
            &["parked", "list", "--id", HOSTILE],
            &["parked", "show", "--seq", &seq],
            &["parked", "show", "--json", "--seq", &seq],
            &["status"],
            &["status", "--json"],
            &["verify", "--wait", "0s"],
            &["replay", "--all", "--dry-run"],
            &["parked", "discard", "--seq", &seq, "--yes", "--note", HOSTILE],
        ];
        for command in commands {
            let output = setting.program.output(command).await?;
            let told = [output.stdout, output.stderr].concat();
            let told = String::from_utf8(told)?;
            ensure!(!told.is_empty(), "{command:?} says nothing");
            is_clean(&format!("{command:?}"), &told)?;
            if command.contains(&"--json") {
                serde_json::from_str::<serde_json::Value>(&told)?;
            }
        }
    }
    Ok(())
}

/// One bad event does not drown in those that wait behind it.
#[tokio::test]
async fn what_waits_is_folded_under_its_head() -> Result<()> {
    let setting = Setting::shared().await?;
    let relay = setting.run()?;
    let sql = "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
               SELECT 'orders.paid', 'order', '7', '1' FROM generate_series(1, 30)";
    setting.sql(sql).await?;
    wait_until("all to be parked", PATIENCE, async || {
        setting.ask::<bool>("SELECT count(*) = 30 FROM pgoutbox.parked").await
    })
    .await?;
    relay.drain(PATIENCE).await?;
    let told = setting.program.succeed(&["parked", "list"]).await?;
    ensure!(told.lines().count() == 3, "{told}");
    ensure!(told.contains("29 events wait behind these: --waiting"), "{told}");
    ensure!(told.contains("outbox/orders.paid"), "{told}");
    let all = setting.program.succeed(&["parked", "list", "--waiting"]).await?;
    ensure!(all.lines().count() == 31, "{all}");
    let json = setting.program.succeed(&["parked", "list", "--json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    let first = &json["events"][0];
    ensure!(json["events"].as_array().map(Vec::len) == Some(30), "{json}");
    ensure!(first["waiting_behind_it"] == 29 && first["routing_key"] == "orders.paid", "{first}");
    Ok(())
}

/// What became of an event is said also where it is not parked; and a program that reads JSON is
/// told of a server that is away.
#[tokio::test]
async fn what_is_asked_for_is_answered() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    drop(consumer);
    let id: String = setting.ask("SELECT id::text FROM outbox_messages").await?;
    let told = setting.program.succeed(&["parked", "list", "--id", &id]).await?;
    ensure!(told.contains("is delivered: marked at 20"), "{told}");
    let told = setting.program.succeed(&["parked", "list", "--id", "never"]).await?;
    ensure!(told.contains("is in no outbox table"), "{told}");
    let away = setting.set("postgres.url", "postgres://postgres@127.0.0.1:1/x");
    for command in [&["status", "--json"][..], &["verify", "--json"], &["parked", "list", "--json"]]
    {
        let output = away.program.output(command).await?;
        ensure!(output.status.code() == Some(69), "{command:?}: {output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let text = told["fault"]["hint"].as_str().unwrap_or_default();
        ensure!(!text.is_empty(), "{command:?}: {told}");
    }
    // With a part that could be printed before, it is one JSON all the same.
    let output = away.program.output(&["prune", "--json"]).await?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(told["fault"]["what"].is_string(), "{told}");
    Ok(())
}

/// While somebody locks the outbox, all that does not stand in it is shown.
#[tokio::test]
async fn a_locked_outbox_hides_nothing_else() -> Result<()> {
    let setting = Setting::shared().await?;
    let client = setting.client().await?;
    client.batch_execute("BEGIN; LOCK outbox_messages IN ACCESS EXCLUSIVE MODE").await?;
    let told = setting.program.output(&["status"]).await?.stdout;
    let told = String::from_utf8(told)?;
    ensure!(told.contains("slot ") && told.contains("unmarked  unknown"), "{told}");
    ensure!(told.contains("lock timeout"), "{told}");
    Ok(())
}

/// One event can be followed by its id from its row to its mark, in text and as JSON; what is parked
/// has its fields, and the console says where it would go.
#[tokio::test]
async fn an_event_is_traced_by_its_id() -> Result<()> {
    let setting = Setting::shared().await?;
    let setting = setting.set("log.level", "info,pgoutbox=trace").set("log.format", "json");
    let setting = setting.set("http.token", "t");
    let relay = setting.run()?;
    let lines = |key: &str, value: &str| -> Result<Vec<serde_json::Value>> {
        let log = relay.log();
        let parsed = log.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>()?;
        let parsed: Vec<serde_json::Value> = parsed;
        Ok(parsed.into_iter().filter(|line| line[key] == value).collect())
    };
    let insert = "INSERT INTO outbox_messages (topic, payload) VALUES ('nowhere', '1')";
    setting.sql(insert).await?;
    relay.wait_for_log("try 2 of", PATIENCE).await?;
    let parked = lines("reason", "returned")?;
    ensure!(parked[0]["table"] == "public.outbox_messages", "{parked:?}");
    ensure!(parked[0]["event_id"].is_string(), "{parked:?}");
    ensure!(parked.iter().any(|line| line["seq"].is_number()), "{parked:?}");
    let address = relay.http(PATIENCE).await?;
    let token = ("Authorization", "Bearer t");
    let listed = request(address, "GET", "/parked", &[token], "").await?.json()?;
    let first = &listed["events"][0];
    ensure!(first["exchange"] == "outbox" && first["routing_key"] == "nowhere", "{listed}");

    let _consumer = setting.consumer().await?;
    setting.sql(&insert.replace("nowhere", "t")).await?;
    let sql = "SELECT id::text FROM outbox_messages WHERE topic = 't'";
    let id: String = setting.ask(sql).await?;
    let steps =
        ["an event has come", "an event is published", "the broker answers", "an event is marked"];
    let told = || -> Result<Vec<serde_json::Value>> {
        Ok(lines("event_id", &id)?.iter().map(|line| line["message"].clone()).collect())
    };
    wait_until("its mark", PATIENCE, async || Ok(told()?.len() >= steps.len())).await?;
    ensure!(told()? == steps, "{:?}", told()?);
    relay.drain(PATIENCE).await
}
