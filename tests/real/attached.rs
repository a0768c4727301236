//! Tables that become a partition of the outbox with rows in them.

use anyhow::{Context, Result};
use harness::shared;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

const TABLE: &str = "CREATE TABLE outbox_messages (id uuid, aggregate_type text DEFAULT 'order', aggregate_id text DEFAULT 'one',
        event_type text DEFAULT 'placed', payload jsonb DEFAULT '{}', region int DEFAULT 0,
        occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE first PARTITION OF outbox_messages FOR VALUES IN (0)";

async fn insert(
    setting: &Setting,
    table: &str,
    region: i32,
    number: u32,
    is_marked: bool,
) -> Result<()> {
    let mark = if is_marked { "now()" } else { "NULL" };
    let id = uuid(number);
    let sql =
        format!("INSERT INTO {table} (id, region, relayed_at) VALUES ('{id}', {region}, {mark})");
    setting.sql(&sql).await
}

/// Made as the table is, filled, and attached: `together` in one transaction.
async fn attach(
    setting: &Setting,
    region: i32,
    numbers: &[(u32, bool)],
    together: bool,
) -> Result<()> {
    let client = setting.client().await?;
    let name = format!("part_{region}");
    let mut sql = vec![format!("CREATE TABLE {name} (LIKE outbox_messages INCLUDING ALL)")];
    for (number, is_marked) in numbers {
        let mark = if *is_marked { "now()" } else { "NULL" };
        let id = uuid(*number);
        sql.push(format!(
            "INSERT INTO {name} (id, region, relayed_at) VALUES ('{id}', {region}, {mark})"
        ));
    }
    sql.push(format!(
        "ALTER TABLE outbox_messages ATTACH PARTITION {name} FOR VALUES IN ({region})"
    ));
    if together {
        return Ok(client.batch_execute(&sql.join("; ")).await?);
    }
    for one in sql {
        client.batch_execute(&one).await.with_context(|| one.clone())?;
    }
    Ok(())
}

/// What it held is published once, however it came, while a relay runs or none; what has a mark is not.
#[tokio::test]
async fn rows_of_a_table_that_is_attached_are_published() -> Result<()> {
    for (mode, is_root) in [("update", true), ("update", false), ("side_table", true)] {
        let told = format!("{mode} {is_root}");
        let setting = Setting::bare()
            .await?
            .set("audit.mode", mode)
            .set("session.backoff_max", "300ms")
            .set("postgres.check_interval", "1s");
        setting.sql(TABLE).await?;
        setting
            .sql(&format!(
                "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WITH (publish = 'insert', publish_via_partition_root = {is_root})"
            ))
            .await?;
        setting.init().await?;
        let consumer = setting.bound("#").await?;
        let relay = setting.run()?;
        insert(&setting, "outbox_messages", 0, 1, false).await?;
        arrived(&consumer, 1).await.with_context(|| relay.log())?;
        // While it runs: an empty one, one whose rows are marked, one with rows that wait.
        attach(&setting, 1, &[], false).await?;
        if mode == "update" {
            attach(&setting, 2, &[(20, true)], false).await?;
        }
        attach(&setting, 3, &[(3, false), (4, false)], false).await?;
        arrived(&consumer, 3).await.with_context(|| format!("{told}\n{}", relay.log()))?;
        attach(&setting, 4, &[(5, false)], true).await?;
        arrived(&consumer, 4).await.with_context(|| format!("{told}\n{}", relay.log()))?;
        insert(&setting, "outbox_messages", 3, 6, false).await?;
        arrived(&consumer, 5).await.with_context(|| format!("{told}\n{}", relay.log()))?;
        relay.drain(PATIENCE).await?;
        // While none runs: attached with rows, and detached, written to and attached again.
        attach(&setting, 5, &[(7, false)], false).await?;
        setting.sql("ALTER TABLE outbox_messages DETACH PARTITION part_3").await?;
        insert(&setting, "part_3", 3, 8, false).await?;
        setting
            .sql("ALTER TABLE outbox_messages ATTACH PARTITION part_3 FOR VALUES IN (3)")
            .await?;
        insert(&setting, "outbox_messages", 3, 9, false).await?;
        let relay = setting.run()?;
        let all =
            arrived(&consumer, 8).await.with_context(|| format!("{told}\n{}", relay.log()))?;
        let came: Vec<String> = ids(&all);
        let mut sorted: Vec<_> = came.clone();
        sorted.sort();
        let wanted = [1, 3, 4, 5, 6, 7, 8, 9].map(uuid);
        assert_eq!(sorted, wanted, "{told}: {came:?}\n{}", relay.log());
        assert!(relay.log().contains("became a partition"), "{told}\n{}", relay.log());
        relay.drain(PATIENCE).await?;
        assert_eq!(consumer.total(), 8, "{told}");
    }
    Ok(())
}

/// A row that the publication's filter cannot be worked out for keeps no other from coming.
#[tokio::test]
async fn a_row_that_raises_in_a_table_that_is_attached() -> Result<()> {
    if shared::postgres().await?.version() < 15 {
        return Ok(());
    }
    let setting = Setting::bare().await?.set("postgres.check_interval", "1s");
    setting.sql(TABLE).await?;
    setting.sql("ALTER TABLE outbox_messages ADD divisor int NOT NULL DEFAULT 1").await?;
    setting
        .sql(
            "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (100 / divisor > 1)
              WITH (publish = 'insert', publish_via_partition_root)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    insert(&setting, "outbox_messages", 0, 1, false).await?;
    arrived(&consumer, 1).await.with_context(|| relay.log())?;
    setting
        .sql(&format!(
            "CREATE TABLE part_1 (LIKE outbox_messages INCLUDING ALL);
             INSERT INTO part_1 (id, region, divisor) VALUES ('{}', 1, 0), ('{}', 1, 1);
             ALTER TABLE outbox_messages ATTACH PARTITION part_1 FOR VALUES IN (1)",
            uuid(2),
            uuid(3)
        ))
        .await?;
    arrived(&consumer, 2).await.with_context(|| relay.log())?;
    insert(&setting, "outbox_messages", 0, 4, false).await?;
    let came = ids(&arrived(&consumer, 3).await.with_context(|| relay.log())?);
    assert_eq!(came, [1, 3, 4].map(uuid), "{}", relay.log());
    assert!(relay.log().contains("a row that waits cannot be read"), "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// Where nothing is caught up with, it is said, with the command.
#[tokio::test]
async fn rows_of_a_table_that_is_attached_are_told_of() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("postgres.on_slot_loss", "halt")
        .set("postgres.check_interval", "1s");
    setting.sql(TABLE).await?;
    setting.init().await?;
    let _consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    attach(&setting, 1, &[(1, false)], false).await?;
    relay
        .wait_for_log("public.part_1 became a partition of public.outbox_messages", PATIENCE)
        .await?;
    assert!(relay.log().contains("replay --only unrelayed --mark"), "{}", relay.log());
    setting.program.succeed(&["replay", "--only", "unrelayed", "--mark"]).await?;
    setting
        .until("the mark", "SELECT count(*) = 1 FROM outbox_messages WHERE relayed_at IS NOT NULL")
        .await?;
    assert_eq!(relay.log().matches("became a partition").count(), 1, "{}", relay.log());
    relay.drain(PATIENCE).await
}
