//! The publication no longer brings the outbox into the stream: the relay waits, not ready, says what
//! helps, acknowledges nothing that may have passed it by, and catches up with that first.

use anyhow::{Context, Result};
use harness::http;
use harness::relay::Relay;
use harness::wait_until;
use tokio_postgres::Client;

use crate::setting::{PATIENCE, Setting};

/// Inserts event `n` of the one aggregate.
fn insert(n: i64) -> String {
    format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload, occurred_at)
         VALUES ('order', 'one', 'placed', '{{\"n\": {n}}}', clock_timestamp())"
    )
}

struct Case {
    name: &'static str,
    /// What somebody does.
    breaks: &'static str,
    /// What the relay then says is wrong; none where there is nothing to be seen any more.
    says: &'static str,
    /// A part of the hint.
    hint: &'static str,
    /// What somebody does about it.
    hints: &'static str,
}

const CASES: [Case; 8] = [
    Case {
        name: "dropped",
        breaks: "DROP PUBLICATION pgoutbox",
        says: "publication \"pgoutbox\" does not exist",
        hint: "pgoutbox init",
        hints: "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WITH (publish = 'insert')",
    },
    Case {
        name: "taken out",
        breaks: "ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages",
        says: "publication \"pgoutbox\" does not cover public.outbox_messages",
        hint: "ALTER PUBLICATION \"pgoutbox\" ADD TABLE \"public\".\"outbox_messages\"",
        hints: "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
    },
    Case {
        name: "another table",
        breaks: "CREATE TABLE another (id int PRIMARY KEY); ALTER PUBLICATION pgoutbox SET TABLE another",
        says: "does not cover public.outbox_messages",
        hint: "ADD TABLE \"public\".\"outbox_messages\"",
        hints: "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
    },
    Case {
        name: "no inserts",
        breaks: "ALTER PUBLICATION pgoutbox SET (publish = 'truncate')",
        says: "does not publish inserts",
        hint: "SET (publish = 'insert')",
        hints: "ALTER PUBLICATION pgoutbox SET (publish = 'insert')",
    },
    Case {
        name: "dropped and made again",
        breaks: "CREATE TABLE copy (LIKE outbox_messages INCLUDING ALL);
            DROP TABLE outbox_messages; ALTER TABLE copy RENAME TO outbox_messages",
        says: "does not cover public.outbox_messages",
        hint: "ADD TABLE \"public\".\"outbox_messages\"",
        hints: "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
    },
    Case {
        name: "renamed",
        breaks: "ALTER TABLE outbox_messages RENAME TO away; CREATE VIEW outbox_messages AS SELECT * FROM away",
        says: "is not a table",
        hint: "",
        hints: "DROP VIEW outbox_messages; ALTER TABLE away RENAME TO outbox_messages",
    },
    Case {
        name: "taken out and put back at once",
        breaks: "ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages",
        says: "",
        hint: "",
        hints: "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
    },
    Case {
        name: "altered and altered back at once",
        breaks: "ALTER PUBLICATION pgoutbox SET (publish = '')",
        says: "",
        hint: "",
        hints: "ALTER PUBLICATION pgoutbox SET (publish = 'insert')",
    },
];

/// While the relay runs, and while none does.
#[tokio::test]
async fn what_passes_by_the_publication_is_caught_up_with() -> Result<()> {
    let cases = CASES.iter().flat_map(|case| [(case, true), (case, false)]);
    let outcomes = futures_util::future::join_all(cases.map(async |(case, is_running)| {
        let outcome = passes_by(case, is_running).await;
        outcome.with_context(|| format!("{}, relay running: {is_running}", case.name))
    }));
    outcomes.await.into_iter().collect()
}

async fn passes_by(case: &Case, is_running: bool) -> Result<()> {
    let setting = Setting::shared().await?.set("session.backoff_max", "500ms");
    let client = setting.client().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    client.batch_execute(&insert(1)).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    setting.all_marked().await?;
    let relay = if is_running {
        relay
    } else {
        relay.drain(PATIENCE).await?;
        // It waits for the relay.
        client.batch_execute(&insert(2)).await?;
        client.batch_execute(case.breaks).await?;
        client.batch_execute(&insert(3)).await?;
        client.batch_execute(case.hints).await?;
        client.batch_execute(&insert(4)).await?;
        setting.run()?
    };
    if is_running {
        client.batch_execute(&insert(2)).await?;
        consumer.wait_distinct(2, PATIENCE).await?;
        setting.all_marked().await?;
        client.batch_execute(case.breaks).await?;
        let before = position(&client, "pg_current_wal_insert_lsn()").await?;
        client.batch_execute(&insert(3)).await?;
        if !case.says.is_empty() {
            waits(&relay, case).await?;
            let confirmed = position(&client, &slot_of(&setting)).await?;
            assert!(confirmed <= before, "acknowledged {confirmed}, behind {before}");
        }
        client.batch_execute(case.hints).await?;
        client.batch_execute(&insert(4)).await?;
    }
    // The second event of a table that was dropped went with it, if it was not delivered before.
    wait_until("every event", PATIENCE, async || Ok(consumer.distinct() >= 4))
        .await
        .with_context(|| relay.log())?;
    let came: Vec<i64> = consumer.deliveries(|all| {
        all.iter().filter_map(|delivery| delivery.json().ok()?["n"].as_i64()).collect()
    });
    assert_eq!(came, [1, 2, 3, 4], "{}\n{}", case.name, relay.log());
    setting.all_marked().await?;
    client.batch_execute(&insert(5)).await?;
    consumer.wait_distinct(5, PATIENCE).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await
}

/// It says what is wrong and how to fix it, and is not ready, until that is done.
async fn waits(relay: &Relay, case: &Case) -> Result<()> {
    let address = relay.http(PATIENCE).await?;
    wait_until("the reason", PATIENCE, async || {
        let answer = http::get(address, "/readyz").await?;
        let told = answer.json()?;
        let reason = &told["reasons"][0];
        let says =
            |field: &str, part: &str| reason[field].as_str().is_some_and(|it| it.contains(part));
        Ok(answer.code == 503 && says("what", case.says) && says("hint", case.hint))
    })
    .await
    .with_context(|| relay.log())?;
    anyhow::ensure!(relay.is_running(), "it has ended");
    Ok(())
}

/// What the slot has acknowledged, for [`position`].
fn slot_of(setting: &Setting) -> String {
    let name = &setting.database;
    format!("(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}')")
}

async fn position(client: &Client, lsn: &str) -> Result<i64> {
    Ok(client.query_one(&format!("SELECT ({lsn} - '0/0')::bigint"), &[]).await?.try_get(0)?)
}
