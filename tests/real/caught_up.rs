//! What waits in the table and not in the slot is published first, then comes the stream.

use anyhow::{Context, Result};
use harness::consumer;
use harness::wait_for;

use crate::bare::{arrived, ids};
use crate::setting::{PATIENCE, Setting};

/// Rows of several aggregates, one transaction each.
async fn insert(setting: &Setting, numbers: std::ops::RangeInclusive<u32>) -> Result<()> {
    let sql = format!(
        "DO $$ BEGIN FOR n IN {}..{} LOOP
             INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload)
             VALUES (('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'order', (n % 7)::text, 'good', '{{}}');
             COMMIT;
         END LOOP; END $$",
        numbers.start(),
        numbers.end()
    );
    setting.client().await?.batch_execute(&sql).await.context("insert")
}

fn numbers(ids: &[String]) -> Vec<u32> {
    ids.iter().filter_map(|id| id.rsplit('-').next()?.parse().ok()).collect()
}

#[tokio::test]
async fn rows_that_were_there_before_the_slot_come_first_and_in_order() -> Result<()> {
    let setting = Setting::bare().await?;
    let schema = setting.program.succeed(&["schema"]).await?;
    let table = schema.split("CREATE TABLE IF NOT EXISTS pgoutbox.").next().context("no schema")?;
    let table = table.split("CREATE SCHEMA").next().context("no schema")?;
    setting.client().await?.batch_execute(table).await.context(table.to_owned())?;
    insert(&setting, 1..=300).await?;
    let said = setting.init().await?;
    assert!(said.contains("300"), "{said}");
    let consumer = setting.bound("#").await?;
    insert(&setting, 301..=400).await?;
    let relay = setting.run()?;
    let came = numbers(&ids(&arrived(&consumer, 400).await.with_context(|| relay.log())?));
    assert_eq!(came, (1..=400).collect::<Vec<_>>(), "all of it once, in the order of the commits");
    setting.all_marked().await?;
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.catch_up_rows").await?, 0);
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.catch_up").await?, 0);
    relay.drain(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_catch_up_goes_on_where_a_kill_left_it() -> Result<()> {
    let setting = Setting::bare().await?.set("window.messages", "20").set("audit.batch", "20");
    setting.init().await?;
    let consumer = setting.bound("#").await?;
    let relay = setting.run()?;
    insert(&setting, 1..=10).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    let drop = format!("SELECT pg_drop_replication_slot('{}')::text", setting.database);
    setting.ask::<String>(&drop).await?;
    insert(&setting, 11..=4_000).await?;
    let mut kills = 0;
    for part in 1..=3 {
        let relay = setting.run()?;
        let sql = format!(
            "SELECT count(*) > {} FROM outbox_messages WHERE relayed_at IS NOT NULL",
            part * 800
        );
        setting.until("a part", &sql).await.with_context(|| relay.log())?;
        let status = setting.status().await?;
        if status["catch_up"].is_object() {
            kills += 1;
            assert_eq!(status["catch_up"]["total"], 3_990, "{status}");
        }
        relay.kill9().await?;
    }
    assert!(kills > 0, "every kill came too late");
    let relay = setting.run()?;
    insert(&setting, 4_001..=4_100).await?;
    setting.all_marked().await.with_context(|| relay.log())?;
    let came = wait_for("the last", PATIENCE, async || {
        let came = numbers(&ids(&consumer.deliveries(<[consumer::Delivery]>::to_vec)));
        Ok(came.contains(&4_100).then_some(came))
    })
    .await?;
    let mut firsts = Vec::new();
    let mut seen = std::collections::HashSet::new();
    firsts.extend(came.iter().filter(|number| seen.insert(**number)).copied());
    assert_eq!(firsts, (1..=4_100).collect::<Vec<_>>(), "none missing, in order");
    // The window, a batch, and what was on its way.
    assert!(came.len() - firsts.len() <= 3 * 60, "{} repeats", came.len() - firsts.len());
    relay.drain(PATIENCE).await?;
    Ok(())
}
