//! Two relays share one table by the row filters of their publications: each delivers its share, and
//! counts, lists and catches up with nothing of the other's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_until;

use crate::check::Checks as _;
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
    even.check().await?.has_not("slot-shares-marks");
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

/// A mark finds its rows by their id: `check` says what that means for the other's share.
#[tokio::test]
async fn an_id_of_both_shares_is_found() -> Result<()> {
    let setting = Setting::bare().await?;
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        return Ok(());
    }
    setting.sql(&TABLE.replace("PRIMARY KEY", "")).await?;
    let slot = format!("{}_even", setting.database);
    let even = setting.clone().set("postgres.publication", "even").set("postgres.slot", &slot);
    even.init().await?;
    let _consumer = even.consumer().await?;
    let relay = even.run()?;
    let both = "INSERT INTO outbox_messages (id, aggregate_id, payload)
        SELECT '00000000-0000-0000-0000-000000000001', one, '{}' FROM generate_series(1, 8) AS one";
    setting.sql(both).await?;
    let others = "SELECT bool_and(relayed_at IS NOT NULL) FROM outbox_messages WHERE hashtext(aggregate_id) & 1 = 1";
    setting.until("marks of rows that nobody published", others).await?;
    relay.drain(PATIENCE).await?;
    let said = "another relay's share";
    let found = even.check().await?;
    assert!(found.has("id-not-unique", "warning")["what"].to_string().contains(said), "{found}");
    // Without a filter there is one share.
    setting.sql("ALTER PUBLICATION even SET TABLE outbox_messages").await?;
    let found = even.check().await?;
    assert!(!found.has("id-not-unique", "warning")["what"].to_string().contains(said), "{found}");
    // The SQL of the hint, where the ids are told apart.
    setting.sql("UPDATE outbox_messages SET id = gen_random_uuid()").await?;
    even.carry_out(even.check().await?.has("id-not-unique", "warning")).await?;
    even.check().await?.has_not("id-not-unique");
    Ok(())
}

const OLD: &str = "now() - interval '3 hours'";

/// A table of two tenants, and of rows that are nobody's: the filter is NULL for them. `parts`: none, all
/// under the name of the root, or each under its own.
async fn tenants(setting: &Setting, parts: Option<bool>) -> Result<()> {
    let columns = r#"id uuid DEFAULT gen_random_uuid(), "Ten""ant" text, aggregate_type text DEFAULT 'order', aggregate_id text,
        event_type text DEFAULT 'placed', payload jsonb, occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz"#;
    let filter = |tenant: &str| {
        format!(r#"WHERE ("Ten""ant" = '{tenant}' AND length(lower("Ten""ant")) < 9)"#)
    };
    let Some(is_root) = parts else {
        setting.sql(&format!("CREATE TABLE outbox_messages ({columns}, PRIMARY KEY (id))")).await?;
        for tenant in ["even", "odd"] {
            let filter = filter(tenant);
            setting
                .sql(&format!("CREATE PUBLICATION {tenant} FOR TABLE outbox_messages {filter} WITH (publish = 'insert')"))
                .await?;
        }
        return Ok(());
    };
    setting
        .sql(&format!(
            "CREATE TABLE outbox_messages ({columns}, PRIMARY KEY (id, occurred_at)) PARTITION BY RANGE (occurred_at);
             CREATE TABLE outbox_messages_d20250101 PARTITION OF outbox_messages FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2025-01-02 00:00+00');
             CREATE TABLE outbox_rest PARTITION OF outbox_messages DEFAULT"
        ))
        .await?;
    if is_root {
        // Under the names of the partitions, one that pgoutbox made would have no filter.
        let comment =
            "COMMENT ON TABLE outbox_messages_d20250101 IS 'pgoutbox made this partition'";
        setting.sql(comment).await?;
    }
    for tenant in ["even", "odd"] {
        let filter = filter(tenant);
        let tables = match is_root {
            true => format!("outbox_messages {filter}"),
            false => {
                format!("outbox_messages, outbox_messages_d20250101 {filter}, outbox_rest {filter}")
            }
        };
        setting
            .sql(&format!(
                "CREATE PUBLICATION {tenant} FOR TABLE {tables} WITH (publish = 'insert', publish_via_partition_root = {is_root})"
            ))
            .await?;
    }
    Ok(())
}

/// One row that was relayed long ago, and one that was discarded long ago.
async fn old_rows(setting: &Setting, mode: &str, tenant: &str, at: &str) -> Result<()> {
    let slot = format!("{}_{tenant}", setting.database);
    let mark = match mode {
        "side_table" => format!(
            "INSERT INTO pgoutbox.relayed SELECT 'outbox_messages'::regclass, id, {OLD} FROM one"
        ),
        _ => "SELECT FROM one".to_owned(),
    };
    let relayed_at = if mode == "update" { OLD } else { "NULL" };
    setting
        .sql(&format!(
            r#"WITH one AS (INSERT INTO outbox_messages ("Ten""ant", aggregate_id, payload, occurred_at, relayed_at)
                            VALUES (nullif('{tenant}', 'nobody'), 'one', '{{}}', {at}, {relayed_at}) RETURNING id::text)
               {mark};
               WITH one AS (INSERT INTO outbox_messages ("Ten""ant", aggregate_id, payload, occurred_at)
                            VALUES (nullif('{tenant}', 'nobody'), 'two', '{{}}', {at}) RETURNING id::text)
               INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state,
                                            is_holding, changed_at, columns, cells)
               SELECT '{slot}', 'outbox_messages'::regclass, id, '0/1', 1, now(), 'discarded', true, {OLD}, '[]', '{{}}' FROM one"#
        ))
        .await
}

/// Pruning, counting, sending again and looking for what was missed are of one share each.
#[tokio::test]
async fn upkeep_of_one_share_leaves_the_rows_of_the_other() -> Result<()> {
    for (mode, parts) in [
        ("update", None),
        ("side_table", None),
        ("update", Some(true)),
        ("side_table", Some(true)),
        ("update", Some(false)),
    ] {
        let setting = Setting::bare().await?.set("audit.mode", mode);
        if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000
        {
            return Ok(());
        }
        tenants(&setting, parts).await?;
        let share = |name: &str| {
            let slot = format!("{}_{name}", setting.database);
            let share = setting.clone().set("postgres.publication", name);
            share
                .set("postgres.slot", &slot)
                .set("reconcile.interval", "1s")
                .set("reconcile.republish", "true")
                .set("reconcile.age", "1s")
                .set("audit.give_up", "1s")
                .set("audit.hold", "1s")
                .set("postgres.wal_sender_timeout", "1s")
        };
        let (even, odd) = (share("even"), share("odd"));
        for one in [&even, &odd] {
            one.init().await.with_context(|| format!("{mode} {parts:?}"))?;
        }
        let at = if parts.is_some() { "'2025-01-01 12:00+00'" } else { OLD };
        for tenant in ["even", "odd", "nobody"] {
            old_rows(&setting, mode, tenant, at).await?;
        }
        let told = format!("{mode} {parts:?}");
        let left = async || -> Result<String> {
            setting
                .ask(r#"SELECT coalesce(string_agg(format('%s %s', coalesce("Ten""ant", 'nobody'), aggregate_id), ', ' ORDER BY 1), '')
                          FROM (SELECT "Ten""ant", aggregate_id FROM outbox_messages ORDER BY "Ten""ant", aggregate_id) AS rows"#)
                .await
        };
        even.program.succeed(&["prune", "--keep", "1h"]).await?;
        assert_eq!(left().await?, "odd one, odd two, nobody one, nobody two", "{told}");
        let records: i64 = setting.ask("SELECT count(*) FROM pgoutbox.parked").await?;
        assert_eq!(records, 2, "{told}");
        odd.program.succeed(&["prune", "--keep", "1h"]).await?;
        assert_eq!(left().await?, "nobody one, nobody two", "{told}");
        if parts == Some(true) {
            // Nothing is left in the partition: whoever comes first drops it.
            setting.sql("DELETE FROM outbox_messages").await?;
            let said = even.program.succeed(&["prune", "--keep", "1h", "--json"]).await?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            let dropped = &said["tables"][0]["partitions_dropped"];
            assert_eq!(*dropped, serde_json::json!(["outbox_messages_d20250101"]), "{told}");
        }
        // Unmarked and not in any stream: each finds its own.
        let consumer = even.consumer().await?;
        let relays = (even.run()?, odd.run()?);
        let streamed = async |tenant: &str, id: &str| {
            setting.sql(&format!(
                r#"INSERT INTO outbox_messages ("Ten""ant", aggregate_id, payload) VALUES (nullif('{tenant}', 'nobody'), '{id}', '{{"of": "{tenant}"}}')"#
            )).await
        };
        for tenant in ["even", "odd", "nobody"] {
            streamed(tenant, "three").await?;
        }
        let came = async |wanted: usize| {
            consumer
                .wait_distinct(wanted, PATIENCE)
                .await
                .with_context(|| format!("{told}\n{}\n{}", relays.0.log(), relays.1.log()))
        };
        came(2).await?;
        for share in [&even, &odd] {
            let marked = async || Ok(ledger(share).await? == [1, 1, 0]);
            wait_until("its row to be marked", PATIENCE, marked)
                .await
                .with_context(|| format!("{told}\n{}\n{}", relays.0.log(), relays.1.log()))?;
        }
        relays.1.drain(PATIENCE).await?;
        setting
            .sql(match mode {
                "update" => "UPDATE outbox_messages SET relayed_at = NULL",
                _ => "TRUNCATE pgoutbox.relayed",
            })
            .await?;
        let again = async || Ok(ledger(&even).await? == [1, 1, 0]);
        wait_until("reconciliation", PATIENCE, again).await.with_context(|| relays.0.log())?;
        let of = |tenant: &str| {
            consumer.deliveries(|all| {
                all.iter().filter(|one| one.json().is_ok_and(|json| json["of"] == tenant)).count()
            })
        };
        assert_eq!((of("even"), of("odd"), of("nobody")), (2, 1, 0), "{told}");
        assert_eq!(ledger(&odd).await?, [1, 0, 1], "{told}");
        odd.program.succeed(&["replay", "--all"]).await?;
        wait_until("the replay", PATIENCE, async || Ok(of("odd") == 2)).await?;
        assert_eq!((of("even"), of("nobody")), (2, 0), "{told}");
        relays.0.drain(PATIENCE).await?;
    }
    Ok(())
}

/// What one relay leaves behind is its own: the other goes on, with all that is parked for it.
#[tokio::test]
async fn one_of_two_is_uninstalled() -> Result<()> {
    let setting = Setting::bare().await?;
    setting
        .sql("CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text,
                aggregate_type text, aggregate_id text, payload jsonb, relayed_at timestamptz)")
        .await?;
    let share = |name: &str| {
        let slot = format!("{}_{name}", setting.database);
        setting.clone().set("postgres.slot", &slot).set("postgres.publication", name)
    };
    let (goes, stays) = (share("goes"), share("stays"));
    goes.init().await?;
    stays.init().await?;
    let (gone, slot) =
        (format!("{}_goes", setting.database), format!("{}_stays", setting.database));
    setting
        .sql(&format!(
            "INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state, is_holding, columns, cells)
             SELECT slot, 'outbox_messages', 'x', '0/1', 1, now(), 'failed', false, '[]', '{{}}'
               FROM unnest(ARRAY['{gone}', '{slot}']::name[]) AS slot"
        ))
        .await?;
    let told = goes.program.succeed(&["uninstall", "--yes"]).await?;
    assert!(told.contains(&slot) && told.contains("DROP PUBLICATION \"goes\""), "{told}");
    let left = "SELECT concat_ws(' ', (SELECT string_agg(slot, ' ') FROM pgoutbox.parked),
                                      (SELECT string_agg(slot, ' ') FROM pgoutbox.progress),
                                      (SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE database = current_database()))";
    assert_eq!(setting.ask::<String>(left).await?, [&*slot; 3].join(" "));
    stays.program.succeed(&["check"]).await?;
    let consumer = stays.consumer().await?;
    let relay = stays.run()?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    crate::bare::arrived(&consumer, 1).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    let told = stays.program.succeed(&["uninstall", "--yes"]).await?;
    assert!(told.contains("schema pgoutbox; kept your tables"), "{told}");
    assert!(setting.ask::<bool>("SELECT to_regnamespace('pgoutbox') IS NULL").await?);
    Ok(())
}

/// A mark does not say whose it is: two relays of one table, which they do not share, are told of.
#[tokio::test]
async fn two_relays_that_mark_the_same_rows_are_found() -> Result<()> {
    let setting = Setting::shared().await?;
    let other = setting.clone().set("postgres.publication", "other");
    let other = other.set("postgres.slot", &format!("{}_other", setting.database));
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let told = other.init().await?;
    let said = format!(
        "the relay of slot \"{}\" marks rows of public.outbox_messages too",
        setting.database
    );
    assert!(told.contains(&said), "{told}");
    let found = other.check().await?;
    assert!(
        found.has("slot-shares-marks", "warning")["what"]
            .to_string()
            .contains("is of whoever comes first"),
        "{found}"
    );
    other.clone().set("audit.mode", "none").check().await?.has_not("slot-shares-marks");
    relay.drain(PATIENCE).await
}
