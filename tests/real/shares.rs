//! Two relays share one table by the row filters of their publications: each delivers its share, and
//! counts, lists and catches up with nothing of the other's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_until;

use crate::setting::{PATIENCE, Setting};

const TABLE: &str = "CREATE TABLE outbox_messages (id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
    aggregate_type text DEFAULT 'order', aggregate_id text, event_type text DEFAULT 'placed', payload jsonb,
    occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz);
    CREATE PUBLICATION even FOR TABLE outbox_messages WHERE (hashtext(aggregate_id) & 1 = 0) WITH (publish = 'insert');
    CREATE PUBLICATION odd FOR TABLE outbox_messages WHERE (hashtext(aggregate_id) & 1 = 1) WITH (publish = 'insert')";
const AGGREGATES: i64 = 8;

/// Events of these numbers, one for each aggregate.
async fn insert(setting: &Setting, numbers: std::ops::Range<i64>) -> Result<()> {
    for n in numbers {
        setting
            .sql(&format!(
                "INSERT INTO outbox_messages (aggregate_id, payload)
                 SELECT one, jsonb_build_object('aggregate', one, 'n', {n}) FROM generate_series(1, {AGGREGATES}) AS one"
            ))
            .await?;
    }
    Ok(())
}

/// Each event came once, in the order of its aggregate.
async fn all_once(consumer: &Consumer, last: i64, relays: [&Relay; 2]) -> Result<()> {
    let logs = || format!("{}\n\n{}", relays[0].log(), relays[1].log());
    let wanted = usize::try_from(last * AGGREGATES)?;
    consumer.wait_distinct(wanted, PATIENCE).await.with_context(logs)?;
    let mut of_each: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    consumer.deliveries(|all| {
        for delivery in all {
            let event = delivery.json()?;
            let number = |name: &str| event[name].as_i64().context("no number");
            of_each.entry(number("aggregate")?).or_default().push(number("n")?);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    for (aggregate, came) in of_each {
        assert_eq!(came, (1..=last).collect::<Vec<_>>(), "of {aggregate}\n{}", logs());
    }
    Ok(())
}

/// What a relay's ledger says of the table: committed, delivered, unmarked and waiting.
async fn ledger(share: &Setting) -> Result<[i64; 3]> {
    let output = share.program.output(&["verify", "--json", "--exact"]).await?;
    let ledger: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let rows = |kind: &str| ledger["tables"][0][kind]["rows"].as_i64().context("no rows");
    Ok([rows("committed")?, rows("delivered")?, rows("unmarked")? + rows("waiting")?])
}

#[tokio::test]
async fn two_relays_share_a_table() -> Result<()> {
    let setting = Setting::bare().await?;
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        // Row filters are from 15 on.
        return Ok(());
    }
    setting.sql(TABLE).await?;
    let share = |name: &str| {
        let slot = format!("{}_{name}", setting.database);
        setting.clone().set("postgres.publication", name).set("postgres.slot", &slot)
    };
    let (even, odd) = (share("even"), share("odd"));
    let total: Vec<i64> = {
        let mut shares = Vec::new();
        for parity in 0..2 {
            let sql = format!(
                "SELECT count(*) FROM generate_series(1, {AGGREGATES}) AS one WHERE hashtext(one::text) & 1 = {parity}"
            );
            shares.push(setting.ask::<i64>(&sql).await?);
        }
        shares
    };
    let [of_even, of_odd] = total[..] else { anyhow::bail!("two shares") };
    assert!(of_even > 0 && of_odd > 0);
    // Rows that wait before either is there: each lists its own.
    insert(&setting, 1..6).await?;
    even.init().await?;
    odd.init().await?;
    let listed: i64 = setting.ask("SELECT count(*) FROM pgoutbox.catch_up_rows").await?;
    assert_eq!(listed, 5 * AGGREGATES, "each row on one list");
    let consumer = even.consumer().await?;
    let (first, second) = (even.run()?, odd.run()?);
    insert(&setting, 6..30).await?;
    all_once(&consumer, 29, [&first, &second]).await?;
    setting.all_marked().await?;
    // One is away: what waits for it is nothing to the other.
    second.drain(PATIENCE).await?;
    insert(&setting, 30..35).await?;
    let done = async || Ok(ledger(&even).await? == [of_even * 34, of_even * 34, 0]);
    wait_until("the first's share", PATIENCE, done).await?;
    assert_eq!(ledger(&odd).await?, [of_odd * 34, of_odd * 29, of_odd * 5]);
    let unmarked = async |share: &Setting| {
        Ok::<_, anyhow::Error>(share.status().await?["unmarked"][0]["rows"].as_i64())
    };
    assert_eq!((unmarked(&even).await?, unmarked(&odd).await?), (Some(0), Some(of_odd * 5)));
    // And its slot is lost.
    let slot = format!("{}_odd", setting.database);
    setting.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await?;
    let second = odd.run()?;
    insert(&setting, 35..50).await?;
    all_once(&consumer, 49, [&first, &second]).await?;
    setting.all_marked().await?;
    // Nothing is to be sent again.
    for share in [&even, &odd] {
        let replay = share.program.output(&["replay", "--only", "unrelayed", "--dry-run"]).await?;
        let said = String::from_utf8_lossy(&replay.stdout).into_owned();
        assert!(!said.contains("would be sent") || said.contains("0 "), "{said}");
    }
    let seen: BTreeSet<_> = consumer.deliveries(|all| all.iter().map(crate::bare::id).collect());
    assert_eq!((seen.len(), consumer.total()), (consumer.distinct(), consumer.distinct()));
    first.drain(PATIENCE).await?;
    second.drain(PATIENCE).await
}
