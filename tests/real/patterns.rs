//! Tables that are named by a pattern: a tenant each, which come, break and go while the relay runs.

use anyhow::{Context, Result, ensure};
use harness::consumer::{Consumer, Delivery};
use harness::relay::Relay;
use harness::setting::{PATIENCE, Setting, ids};
use harness::wait_until;

use crate::check::Checks as _;

const COLUMNS: &str = "(id text PRIMARY KEY, topic text NOT NULL DEFAULT 't', payload jsonb DEFAULT '{}', occurred_at timestamptz \
      DEFAULT clock_timestamp(), relayed_at timestamptz)";

/// SQL that makes a tenant.
fn tenant(name: &str) -> String {
    format!("CREATE SCHEMA {name}; CREATE TABLE {name}.outbox {COLUMNS};")
}

fn row(tenant: &str, id: &str) -> String {
    format!("INSERT INTO {tenant}.outbox (id) VALUES ('{tenant} {id}');")
}

async fn setting() -> Result<Setting> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.pattern", "tenant_*.outbox")
        .set("tables.0.routing_key", "{schema()}.{table()}.{topic}")
        .set("postgres.check_interval", "100ms")
        .set("session.backoff_max", "300ms");
    Ok(setting)
}

/// These have come, each once, in any order.
async fn came(consumer: &Consumer, relay: &Relay, wanted: &[&str]) -> Result<()> {
    let mut wanted: Vec<String> = wanted.iter().map(|id| (*id).to_owned()).collect();
    wanted.sort();
    let waited = wait_until("the rows", PATIENCE, async || {
        let mut came = ids(&consumer.deliveries(<[Delivery]>::to_vec));
        came.sort();
        ensure!(came == wanted, "{came:?} instead of {wanted:?}");
        Ok(true)
    });
    waited.await.with_context(|| relay.log())
}

/// All rows of the tenants are marked.
async fn marked(setting: &Setting, relay: &Relay, tenants: &[&str]) -> Result<()> {
    for tenant in tenants {
        let all = format!("SELECT bool_and(relayed_at IS NOT NULL) FROM {tenant}.outbox");
        setting.until(tenant, &all).await.with_context(|| relay.log())?;
    }
    Ok(())
}

fn lists(relay: &Relay) -> usize {
    relay.log().matches("listed the rows that wait").count()
}

/// They come and go by the publication `publish` adds each to; those that are made and added in two steps and
/// have rows in between are caught up with, in `lists` lists.
async fn come_and_go(setting: Setting, publish: &str, wanted_lists: usize) -> Result<()> {
    let publish = |tenant: &str| publish.replace("TENANT", tenant);
    setting.sql(&(tenant("tenant_a") + &row("tenant_a", "before"))).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let mut wanted = vec!["tenant_a before", "tenant_a 1"];
    setting.sql(&row("tenant_a", "1")).await?;
    came(&consumer, &relay, &wanted).await?;

    // Not one that matches.
    setting.sql("CREATE SCHEMA other; CREATE TABLE other.outbox (id int)").await?;

    // In one transaction, then in two with rows before and after.
    setting.sql(&(tenant("tenant_b") + &publish("tenant_b"))).await?;
    setting.sql(&row("tenant_b", "1")).await?;
    wanted.push("tenant_b 1");
    came(&consumer, &relay, &wanted).await?;
    setting.sql(&(tenant("tenant_c") + &row("tenant_c", "early"))).await?;
    setting.sql(&publish("tenant_c")).await?;
    setting.sql(&row("tenant_c", "late")).await?;
    wanted.extend(["tenant_c early", "tenant_c late"]);
    came(&consumer, &relay, &wanted).await?;

    // All in one transaction, with rows.
    let sql = tenant("tenant_d") + &row("tenant_d", "early") + &publish("tenant_d");
    setting.sql(&(sql + &row("tenant_d", "late"))).await?;
    setting.sql(&row("tenant_d", "1")).await?;
    wanted.extend(["tenant_d early", "tenant_d late", "tenant_d 1"]);
    came(&consumer, &relay, &wanted).await?;
    marked(&setting, &relay, &["tenant_a", "tenant_b", "tenant_c", "tenant_d"]).await?;

    // They go, under load of the others.
    setting.sql("DROP SCHEMA tenant_a CASCADE").await?;
    setting.sql(&row("tenant_b", "2")).await?;
    setting.sql("DROP SCHEMA tenant_d CASCADE").await?;
    setting.sql(&row("tenant_c", "2")).await?;
    wanted.extend(["tenant_b 2", "tenant_c 2"]);
    came(&consumer, &relay, &wanted).await?;
    marked(&setting, &relay, &["tenant_b", "tenant_c"]).await?;
    let keys =
        consumer.deliveries(|all| all.iter().map(|d| d.routing_key.clone()).collect::<Vec<_>>());
    ensure!(keys.iter().any(|key| key == "tenant_c.outbox.t"), "{keys:?}");
    ensure!(lists(&relay) == wanted_lists, "{}", relay.log());
    relay.drain(PATIENCE).await?;
    let log = relay.log();
    ensure!(!log.contains(" ERROR ") && !log.contains("not drained"), "{log}");
    Ok(())
}

#[tokio::test]
async fn tables_come_and_go_each_put_into_the_publication() -> Result<()> {
    come_and_go(setting().await?, "ALTER PUBLICATION pgoutbox ADD TABLE TENANT.outbox;", 2).await
}

/// None of their rows passes by the slot: nothing is listed.
#[tokio::test]
async fn tables_come_and_go_in_a_publication_of_all_tables() -> Result<()> {
    let setting = setting().await?;
    setting.sql("CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')").await?;
    come_and_go(setting, "", 0).await
}

/// Rows that were passed over while their table had another name, which no pattern matches, come once it has one that does.
#[tokio::test]
async fn rows_of_before_a_name_matched_are_caught_up_with() -> Result<()> {
    before_a_name_matched(false).await?;
    // The process that passed them over need not live.
    before_a_name_matched(true).await
}

async fn before_a_name_matched(is_restarted: bool) -> Result<()> {
    let setting = setting().await?;
    setting.sql("CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')").await?;
    setting.sql(&tenant("tenant_a")).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let draft = format!("CREATE SCHEMA tenant_b; CREATE TABLE tenant_b.draft {COLUMNS};");
    let early = "INSERT INTO tenant_b.draft (id) VALUES ('tenant_b early');";
    setting.sql(&(draft + early)).await?;
    setting.sql(&row("tenant_a", "1")).await?;
    let mut wanted = vec!["tenant_a 1"];
    came(&consumer, &relay, &wanted).await?;
    // Another session may begin in between.
    setting.sql(&tenant("tenant_c")).await?;
    setting.sql(&row("tenant_c", "1")).await?;
    wanted.push("tenant_c 1");
    came(&consumer, &relay, &wanted).await?;
    let relay = match is_restarted {
        false => relay,
        true => {
            relay.drain(PATIENCE).await?;
            let again = setting.run()?;
            again.reaches("running", PATIENCE).await?;
            again
        }
    };
    setting.sql("ALTER TABLE tenant_b.draft RENAME TO outbox").await?;
    setting.sql(&row("tenant_b", "late")).await?;
    wanted.extend(["tenant_b early", "tenant_b late"]);
    came(&consumer, &relay, &wanted).await?;
    let came = ids(&consumer.deliveries(<[Delivery]>::to_vec));
    let place = |id: &str| came.iter().position(|it| it == id);
    ensure!(place("tenant_b early") < place("tenant_b late"), "{came:?}");
    marked(&setting, &relay, &["tenant_a", "tenant_b", "tenant_c"]).await?;
    relay.drain(PATIENCE).await
}

/// One that cannot be read is left out, with the reason; once it can be, its rows are caught up with.
#[tokio::test]
async fn a_broken_table_leaves_the_others_alone() -> Result<()> {
    let setting = setting().await?;
    let broken = "CREATE SCHEMA tenant_b; CREATE TABLE tenant_b.outbox (id text PRIMARY KEY, topic text DEFAULT 't', relayed_at timestamptz);";
    setting.init().await?;
    setting.check().await?.has("pattern-empty", "warning");
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    setting.sql("DROP PUBLICATION pgoutbox").await?;
    setting.sql(&(tenant("tenant_a") + broken + &tenant("tenant_c"))).await?;
    let said = setting.init().await?;
    let left_out = "tenant_b.outbox matches a pattern and is left out, until that is put right: tenant_b.outbox has no \
                    column \"payload\" for payload";
    ensure!(said.contains(left_out), "{said}");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(&format!(
            "ALTER PUBLICATION pgoutbox ADD TABLE tenant_b.outbox; {} {} {}",
            row("tenant_a", "1"),
            row("tenant_b", "1"),
            row("tenant_c", "1")
        ))
        .await?;
    let mut wanted = vec!["tenant_a 1", "tenant_c 1"];
    came(&consumer, &relay, &wanted).await?;
    relay.wait_for_log(left_out, PATIENCE).await?;
    let check = setting.check().await?;
    let found = check.has("table-left-out", "warning");
    ensure!(found["what"].as_str() == Some(left_out), "{found}");

    // It is put right; another breaks, with a row of each shape.
    setting
        .sql("ALTER TABLE tenant_b.outbox ADD COLUMN payload jsonb DEFAULT '{}', ADD COLUMN occurred_at timestamptz DEFAULT now()")
        .await?;
    wanted.push("tenant_b 1");
    came(&consumer, &relay, &wanted).await?;
    setting
        .sql(&format!(
            "{} ALTER TABLE tenant_c.outbox RENAME payload TO content; {}",
            row("tenant_c", "2"),
            row("tenant_c", "3")
        ))
        .await?;
    setting.sql(&(row("tenant_a", "2") + &row("tenant_b", "2"))).await?;
    wanted.extend(["tenant_a 2", "tenant_b 2"]);
    // What was in flight when the shape ended the session may come once more.
    let all_came = async |wanted: &[&str]| {
        wait_until("all of them", PATIENCE, async || {
            let came = ids(&consumer.deliveries(<[Delivery]>::to_vec));
            Ok(wanted.iter().all(|id| came.iter().any(|it| it == id)))
        })
        .await
        .with_context(|| relay.log())
    };
    all_came(&wanted).await?;
    setting.sql("ALTER TABLE tenant_c.outbox RENAME content TO payload").await?;
    wanted.extend(["tenant_c 2", "tenant_c 3"]);
    all_came(&wanted).await?;
    marked(&setting, &relay, &["tenant_a", "tenant_b", "tenant_c"]).await?;
    relay.drain(PATIENCE).await
}

/// Each command that looks into tables looks into those that match.
#[tokio::test]
async fn every_command_knows_the_tables_that_match() -> Result<()> {
    let setting = setting().await?;
    setting.sql(&(tenant("tenant_a") + &tenant("tenant_b"))).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let bad = "INSERT INTO tenant_b.outbox (id, topic) VALUES ('bad', repeat('x', 300));";
    setting.sql(&(row("tenant_b", "1") + bad)).await?;
    came(&consumer, &relay, &["tenant_b 1"]).await?;
    setting.until("the mark", "SELECT count(relayed_at) = 1 FROM tenant_b.outbox").await?;
    setting.until("the parking", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    let metrics = harness::http::get(relay.http(PATIENCE).await?, "/metrics").await?.body;
    for wanted in ["delivered", "parked"] {
        let series = format!(
            "pgoutbox_table_events_total{{table=\"tenant_b.outbox\",outcome=\"{wanted}\"}} 1"
        );
        ensure!(metrics.contains(&series), "{metrics}");
    }
    for (command, wanted) in [
        (&["status"][..], "tenant_b.outbox"),
        (&["verify", "--exact"], "tenant_b.outbox"),
        (&["event", "tenant_b 1"], "tenant_b.outbox"),
        (&["parked", "list"], "bad"),
        (&["parked", "show", "--id", "bad"], "routing_key"),
        (&["parked", "list", "--id", "tenant_b 1"], "tenant_b.outbox"),
        (&["check"], "tenant_b.outbox has the columns it needs"),
        (&["replay", "--table", "tenant_b.outbox", "--all", "--dry-run"], "tenant_b 1"),
        (&["prune", "--keep", "0s", "--dry-run"], "tenant_b.outbox"),
        (&["init", "--dry-run"], ""),
    ] {
        let output = setting.program.output(command).await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains(wanted), "{command:?}: {said}{error}");
    }
    relay.drain(PATIENCE).await
}
