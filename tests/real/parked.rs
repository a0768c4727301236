//! `pgoutbox parked`: what it shows, what it changes, and that a relay would hear of it.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use harness::scenario::Scenario;
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::bare::uuid;
use crate::setting::{PATIENCE, Setting};

/// One parked event: its number, its state, its aggregate and since how many minutes.
struct Row {
    number: u32,
    state: &'static str,
    aggregate: Option<&'static str>,
    reason: &'static str,
    minutes: u32,
}

fn row(number: u32, state: &'static str, aggregate: &'static str) -> Row {
    Row { number, state, aggregate: Some(aggregate), reason: "returned", minutes: 0 }
}

/// Parked events, as an operator has them.
trait ParkedCommands {
    async fn park(&self, rows: &[Row]) -> Result<()>;
    async fn states(&self) -> Result<String>;
    async fn parked(&self, code: i32, args: &[&str]) -> Result<String>;
    /// Payloads of what comes on the relay's channel.
    async fn listen(&self) -> Result<UnboundedReceiver<String>>;
}

impl ParkedCommands for Setting {
    async fn park(&self, rows: &[Row]) -> Result<()> {
        for row in rows {
            let Row { number, state, aggregate, reason, minutes } = row;
            let id = uuid(*number);
            let aggregate = aggregate.map_or("NULL".to_owned(), |id| format!("'{id}'"));
            self.sql(&format!(
                r#"INSERT INTO pgoutbox.parked (slot, outbox, event_id, aggregate_type, aggregate_id,
                       commit_lsn, index, commit_time, state, is_holding, reason, last_error, hint,
                       attempts, next_attempt_at, parked_at, columns, cells)
                   VALUES (current_database(), 'outbox_messages', '{id}', 'order', {aggregate},
                       '0/1A2B3C4', {number}, now(), '{state}', {aggregate} IS NOT NULL, '{reason}',
                       'the broker returned it, no queue took it: 312 NO_ROUTE', 'bind a queue', 3,
                       CASE '{state}' WHEN 'parked' THEN now() + interval '1 hour' END,
                       now() - interval '{minutes} minutes',
                       '[{{"name": "id", "type_oid": 2950}}, {{"name": "topic", "type_oid": 25}},
                         {{"name": "payload", "type_oid": 3802}}, {{"name": "headers", "type_oid": 3802}},
                         {{"name": "aggregate_type", "type_oid": 25}}, {{"name": "aggregate_id", "type_oid": 25}}]',
                       ARRAY['{id}', 'orders.paid', '{{"order": {number}}}', '{{"tenant": "acme"}}',
                             'order', {aggregate}]::bytea[])"#
            ))
            .await
            .with_context(|| format!("row {number}"))?;
        }
        Ok(())
    }

    async fn states(&self) -> Result<String> {
        self.ask(
            "SELECT string_agg(index || ' ' || place.state, ', ' ORDER BY seq)
               FROM pgoutbox.parked JOIN pgoutbox.parked_places(current_database()) AS place USING (seq)",
        )
        .await
    }

    async fn parked(&self, code: i32, args: &[&str]) -> Result<String> {
        let args = [&["parked"], args].concat();
        let output = self.program.output(&args).await?;
        let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        Ok(told)
    }

    async fn listen(&self) -> Result<UnboundedReceiver<String>> {
        let (client, mut connection) = tokio_postgres::connect(&self.database_url, NoTls).await?;
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(told) = message {
                    let _ = sender.send(told.payload().to_owned());
                }
            }
        });
        client.batch_execute("LISTEN pgoutbox_parked").await?;
        // The connection ends with its client.
        std::mem::forget(client);
        Ok(receiver)
    }
}

async fn heard(receiver: &mut UnboundedReceiver<String>) -> Result<String> {
    tokio::time::timeout(PATIENCE, receiver.recv()).await?.context("nobody told")
}

/// The empty text is an id like any other, and not everybody's; what else is empty is a slip of a script's.
#[tokio::test]
async fn an_empty_text_asks_for_what_has_it() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting.park(&[row(1, "parked", ""), row(2, "parked", "7")]).await?;
    for args in [["--aggregate", "order/"], ["--aggregate-id", ""]] {
        let args = [&["list", "--json"][..], &args].concat();
        let told: Value = serde_json::from_str(&setting.parked(0, &args).await?)?;
        let events = told["events"].as_array().context("no events")?;
        let numbers: Vec<_> = events.iter().map(|event| event["index"].as_u64()).collect();
        assert_eq!(numbers, [Some(1)], "{args:?}");
    }
    for args in [["--reason", ""], ["--table", ""]] {
        setting.parked(64, &[&["discard", "--yes"][..], &args].concat()).await?;
    }
    setting.parked(0, &["discard", "--yes", "--aggregate", "order/"]).await?;
    let left: i64 =
        setting.ask("SELECT count(*) FROM pgoutbox.parked WHERE state = 'parked'").await?;
    assert_eq!(left, 1);
    Ok(())
}

#[tokio::test]
async fn list_shows_what_is_asked_for() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    assert!(setting.parked(0, &["list"]).await?.contains("no parked event fits"));
    setting
        .park(&[
            Row { minutes: 90, ..row(1, "failed", "7") },
            row(2, "queued", "7"),
            Row { aggregate: None, reason: "nacked", ..row(3, "parked", "") },
            row(4, "discarded", "8"),
        ])
        .await?;
    let numbers = async |args: &[&str]| -> Result<Vec<u64>> {
        let args = [&["list", "--json"], args].concat();
        let told: Value = serde_json::from_str(&setting.parked(0, &args).await?)?;
        let events = told["events"].as_array().context("no events")?;
        Ok(events.iter().filter_map(|event| event["index"].as_u64()).collect())
    };
    let id = uuid(2);
    for (args, expected) in [
        (&[][..], &[1, 2, 3][..]),
        (&["--state", "all"], &[1, 2, 3, 4]),
        (&["--state", "discarded"], &[4]),
        (&["--id", &id], &[2]),
        (&["--id", &id, "--seq", "1"], &[]),
        (&["--aggregate", "order/7"], &[1, 2]),
        (&["--aggregate", "invoice/7"], &[]),
        (&["--aggregate-id", "7"], &[1, 2]),
        (&["--reason", "nacked"], &[3]),
        (&["--older-than", "1h"], &[1]),
        (&["--table", "public.outbox_messages", "--limit", "2"], &[1, 2]),
        (&["--table", "public.other"], &[]),
    ] {
        assert_eq!(numbers(args).await?, expected, "{args:?}");
    }
    let table = setting.parked(0, &["list", "--waiting"]).await?;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("SEQ") && lines.len() == 4, "{table}");
    assert!(lines[1].contains("failed") && lines[1].contains("1h 30m"), "{table}");
    assert!(lines[1].contains("order/7") && lines[1].contains("312 NO_ROUTE"), "{table}");
    assert!(lines[3].contains("nacked") && lines[3].contains("59m"), "{table}");
    Ok(())
}

/// A relay of version 0.1 may still park events, and calls it "mend".
#[tokio::test]
async fn a_hint_of_the_version_before_is_shown_and_its_schema_renewed() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting.park(&[row(1, "parked", "7")]).await?;
    setting
        .sql(
            "UPDATE pgoutbox.parked SET mend = hint;
             ALTER TABLE pgoutbox.parked DROP COLUMN hint",
        )
        .await?;
    let checked = setting.program.output(&["check"]).await?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.code() == Some(1) && said.contains("parked.hint"), "{said}");
    setting.init().await?;
    let listed: Value = serde_json::from_str(&setting.parked(0, &["list", "--json"]).await?)?;
    let event = &listed["events"][0];
    for key in ["hint", "mend"] {
        assert_eq!(event[key], "bind a queue", "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn show_builds_the_message_as_it_would_be_published_now() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting.park(&[row(1, "failed", "7"), row(2, "queued", "7"), row(3, "queued", "7")]).await?;
    let told = setting.parked(0, &["show", "--id", &uuid(1)]).await?;
    for part in [
        "failed, 3 tries",
        "no queue took it",
        "bind a queue",
        "2 events",
        "exchange                outbox",
        "routing key             orders.paid",
        "header tenant           acme",
        "header pgoutbox-index   1",
        r#"{"order": 1}"#,
    ] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    assert!(setting.parked(0, &["show", "--seq", "3"]).await?.contains("behind seq 1"));
    assert_eq!(setting.parked(0, &["show", "--seq", "2", "--body"]).await?, r#"{"order": 2}"#);
    let json: Value =
        serde_json::from_str(&setting.parked(0, &["show", "--seq", "1", "--json"]).await?)?;
    assert_eq!(json["message"]["properties"]["message_id"], uuid(1));
    assert_eq!(
        json["message"]["properties"]["headers"]["pgoutbox-commit-lsn"],
        "00000000/01A2B3C4"
    );
    assert_eq!(json["waiting_behind_it"], 2);
    // By the settings of the day.
    let repaired = setting.clone().set("tables.0.exchange", "repaired");
    assert!(
        repaired
            .parked(0, &["show", "--seq", "1"])
            .await?
            .contains("exchange                repaired")
    );
    let small = setting.clone().set("amqp.max_message_bytes", "1KiB");
    setting.sql("UPDATE pgoutbox.parked SET cells[3] = convert_to(repeat('x', 2000), 'UTF8') WHERE seq = 1").await?;
    let told = small.parked(0, &["show", "--seq", "1"]).await?;
    assert!(
        told.contains(
            "cannot be built: its body has 2000 bytes, more than the 1024 of amqp.max_message_bytes"
        ),
        "{told}"
    );
    assert!(told.contains("hint: raise amqp.max_message_bytes"), "{told}");
    small.parked(1, &["show", "--seq", "1", "--body"]).await?;
    // No text: told in hex.
    setting
        .sql(
            "UPDATE pgoutbox.parked SET columns = jsonb_set(columns, '{2,type_oid}', '17'),
                    cells[3] = convert_to('\\xff00', 'UTF8') WHERE seq = 2",
        )
        .await?;
    assert!(setting.parked(0, &["show", "--seq", "2"]).await?.contains("\nff00"));
    setting.parked(64, &["show", "--aggregate", "order/7"]).await?;
    assert!(setting.parked(1, &["show", "--seq", "99"]).await?.contains("no parked event fits"));
    Ok(())
}

#[tokio::test]
async fn retry_takes_heads_at_once_and_leaves_what_waits_behind_them() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting
        .park(&[
            row(1, "failed", "7"),
            row(2, "queued", "7"),
            row(3, "parked", "8"),
            row(4, "discarded", "9"),
        ])
        .await?;
    let mut listener = setting.listen().await?;
    setting.parked(64, &["retry"]).await?;
    let told = setting.parked(1, &["retry", "--id", &uuid(2)]).await?;
    assert!(
        told.contains("0 events tried again now") && told.contains("waits behind seq 1"),
        "{told}"
    );
    let told = setting.parked(1, &["retry", "--seq", "4"]).await?;
    assert!(told.contains("pgoutbox replay --parked 4"), "{told}");
    assert_eq!(setting.states().await?, "1 failed, 2 queued, 3 parked, 4 discarded");
    let told =
        setting.parked(0, &["retry", "--aggregate", "order/7", "--note", "queue bound"]).await?;
    assert!(told.contains("1 event tried again now") && told.contains("1 more wait"), "{told}");
    // The three before changed nothing, so none of them told anybody anything.
    assert_eq!(heard(&mut listener).await?, setting.database);
    assert!(listener.try_recv().is_err());
    let trail: bool = setting
        .ask(
            "SELECT state = 'parked' AND next_attempt_at <= now() AND attempts = 3 AND note = 'queue bound'
                AND changed_by = session_user || ' from 127.0.0.1' AND changed_at > parked_at
               FROM pgoutbox.parked WHERE seq = 1",
        )
        .await?;
    assert!(
        trail,
        "{}",
        setting
            .ask::<String>("SELECT to_jsonb(p)::text FROM pgoutbox.parked p WHERE seq = 1")
            .await?
    );
    let told = setting.parked(0, &["retry", "--all", "--reset-attempts"]).await?;
    assert!(told.contains("2 events tried again now"), "{told}");
    assert_eq!(heard(&mut listener).await?, setting.database);
    assert_eq!(
        setting.ask::<i64>("SELECT sum(attempts) FROM pgoutbox.parked WHERE seq IN (1, 3)").await?,
        0
    );
    assert_eq!(setting.states().await?, "1 parked, 2 queued, 3 parked, 4 discarded");
    Ok(())
}

#[tokio::test]
async fn discard_asks_keeps_a_trail_and_lets_the_aggregate_go_on() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting
        .park(&[
            row(1, "failed", "7"),
            row(2, "queued", "7"),
            row(3, "queued", "7"),
            row(4, "parked", "8"),
            row(5, "queued", "8"),
        ])
        .await?;
    let mut listener = setting.listen().await?;
    let before = setting.states().await?;
    let told = setting.parked(64, &["discard", "--seq", "1"]).await?;
    assert!(told.contains("nobody is there to answer") && told.contains("--yes"), "{told}");
    setting.parked(64, &["discard", "--yes"]).await?;
    assert_eq!(setting.states().await?, before);
    // The head and the next: the third is tried now. One from the middle frees nobody.
    let told = setting
        .parked(0, &["discard", "--seq", "1", "--seq", "2", "--yes", "--note", "TICKET-1"])
        .await?;
    assert!(told.contains("2 events discarded") && told.contains("1 event that waited"), "{told}");
    assert_eq!(heard(&mut listener).await?, setting.database);
    assert_eq!(setting.states().await?, "1 discarded, 2 discarded, 3 parked, 4 parked, 5 queued");
    let told = setting.parked(0, &["show", "--seq", "3"]).await?;
    assert!(told.contains("parked, 3 tries, the next is due"), "{told}");
    let trail: i64 = setting
        .ask(
            "SELECT count(*) FROM pgoutbox.parked WHERE state = 'discarded' AND note = 'TICKET-1'
                AND changed_by LIKE session_user || ' from %' AND last_error IS NOT NULL",
        )
        .await?;
    assert_eq!(trail, 2);
    let told = setting.parked(0, &["discard", "--id", &uuid(5), "--yes"]).await?;
    assert!(!told.contains("waited behind"), "{told}");
    assert_eq!(
        setting.states().await?,
        "1 discarded, 2 discarded, 3 parked, 4 parked, 5 discarded"
    );
    let told = setting.parked(1, &["discard", "--seq", "1", "--yes"]).await?;
    assert!(told.contains("is done with"), "{told}");
    assert_eq!(heard(&mut listener).await?, setting.database);
    let late = tokio::time::timeout(Duration::from_millis(1), listener.recv()).await;
    assert!(late.is_err(), "nothing was discarded, and somebody was told: {late:?}");
    Ok(())
}

/// On a terminal of its own, which `script` gives it.
#[tokio::test]
async fn discard_takes_yes_and_no_from_a_terminal() -> Result<()> {
    let setting = Scenario::default().setting().await?;
    setting.park(&[row(1, "failed", "7"), row(2, "queued", "7"), row(3, "queued", "7")]).await?;
    for (seq, question, answer, expected) in [
        (
            "--all",
            "discard 3 events of 1 aggregate, of which 2 only wait behind another and were never tried?",
            "n",
            "1 failed, 2 queued, 3 queued",
        ),
        ("--seq=1", "discard 1 event of 1 aggregate?", "n", "1 failed, 2 queued, 3 queued"),
        ("--seq=1", "discard 1 event of 1 aggregate?", "y", "1 discarded, 2 parked, 3 queued"),
    ] {
        let mut command = std::process::Command::new("script");
        command
            .args([
                "-qec",
                &format!("{} parked discard {seq}", env!("CARGO_BIN_EXE_pgoutbox")),
                "/dev/null",
            ])
            .env("DATABASE_URL", &setting.database_url)
            .env("PGOUTBOX_POSTGRES__SLOT", &setting.database)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().context("script, of util-linux")?;
        std::io::Write::write_all(
            child.stdin.as_mut().context("no stdin")?,
            format!("{answer}\n").as_bytes(),
        )?;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            told.contains(question) && told.contains("? They are not delivered; [y/N]"),
            "{told}"
        );
        assert_eq!(setting.states().await?, expected, "{told}");
    }
    Ok(())
}
