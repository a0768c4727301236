//! A mark is of the row that the event was: what has its id by now may be another event's, which waits.

use anyhow::{Context, Result};
use harness::scenario::{QUICK, Scenario};

use crate::setting::{PATIENCE, Setting};

/// Outboxes of every kind of mark in a row, of time and of table: name, `audit.mode`, type of the time, `{}` the text
/// of one, and partitions.
const OUTBOXES: [(&str, &str, &str, &str, &str); 6] = [
    ("plain", "update", "timestamptz", "timestamptz '{}Z'", ""),
    ("local", "update", "timestamp", "timestamp '{}'", ""),
    ("counted", "update", "bigint", "(extract(epoch FROM timestamptz '{}Z') * 1000)::bigint", ""),
    ("parted", "update", "timestamptz", "timestamptz '{}Z'", "PARTITION BY RANGE (occurred_at)"),
    ("removed", "delete", "timestamptz", "timestamptz '{}Z'", ""),
    ("cleared", "delete", "timestamptz", "timestamptz '{}Z'", "PARTITION BY RANGE (occurred_at)"),
];

fn table(name: &str, of_type: &str, parts: &str) -> String {
    let part = match parts {
        "" => String::new(),
        _ => format!("CREATE TABLE {name}_all PARTITION OF {name} DEFAULT;"),
    };
    format!(
        "CREATE TABLE {name} (id bigint NOT NULL, aggregate_type text, aggregate_id text, topic text,
             payload jsonb NOT NULL DEFAULT '{{}}', occurred_at {of_type}, note text, relayed_at timestamptz,
             attempt int, last_error text, failed_at timestamptz) {parts};
         {part} CREATE INDEX ON {name} (id)"
    )
}

/// Rows of before, and those that have their ids: none of these is another's. Before the relay runs, so that each
/// event comes when its row is what it is at last.
fn rows(name: &str, time: &str) -> [String; 3] {
    let row = |id: u32, topic: &str, at: &str| {
        let at = time.replace("{}", &format!("2026-01-02 {at}"));
        format!("INSERT INTO {name} (id, topic, occurred_at) VALUES ({id}, '{topic}', {at});")
    };
    let later = time.replace("{}", "2026-01-02 23:00");
    let good = |id: u32, at: &str| row(id, "good", at);
    [
        good(1, "10:00") + &good(2, "10:01") + &good(3, "10:02") + &row(8, "late", "10:03"),
        format!("TRUNCATE {name}"),
        // Not sent yet when the events of before are marked.
        row(1, "late", "11:00") + &row(2, "late", "11:01")
            + &good(3, "11:02")
            // Updated by its application since.
            + &good(4, "11:03") + &format!("COMMIT; BEGIN; UPDATE {name} SET note = 'seen' WHERE id = 4;")
            // Of a savepoint.
            + "SAVEPOINT within;" + &good(5, "11:04") + "RELEASE within;"
            // Without a time, updated since.
            + &format!("INSERT INTO {name} (id, topic) VALUES (6, 'good'); COMMIT; BEGIN; UPDATE {name} SET note = 'seen' WHERE id = 6;")
            // The transaction itself changes the time.
            + &good(7, "11:06") + &format!("UPDATE {name} SET occurred_at = {later} WHERE id = 7;")
            + &good(8, "11:07"),
    ]
}

async fn ids(setting: &Setting, of: &str) -> Result<Vec<i64>> {
    setting.ask(&format!("SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM {of}")).await
}

#[tokio::test]
async fn a_mark_is_of_the_row_that_the_event_was() -> Result<()> {
    let mut scenario = Scenario::with(QUICK);
    for (n, (name, mode, of_type, _, parts)) in OUTBOXES.into_iter().enumerate() {
        scenario = scenario
            .set(&format!("tables.{n}.name"), name)
            .set(&format!("tables.{n}.audit.mode"), mode)
            .tables(&table(name, of_type, parts));
    }
    let setting = scenario.setting().await?;
    let _consumer = setting.bound("good").await?;
    for (name, _, _, time, _) in OUTBOXES {
        let [before, truncate, after] = rows(name, time);
        setting.sql(&before).await?;
        setting.sql(&truncate).await?;
        setting.sql(&format!("BEGIN; {after} COMMIT")).await?;
        setting.sql(&format!("VACUUM FREEZE {name}")).await?;
    }
    let relay = setting.run()?;
    let parked = "SELECT count(*) = 18 FROM pgoutbox.parked WHERE state = 'parked'";
    setting.until("three of each wait", parked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    for (name, mode, ..) in OUTBOXES {
        let waiting = ids(&setting, &format!("{name} WHERE relayed_at IS NULL")).await?;
        assert_eq!(waiting, [1, 2], "{name}, {mode}: {}", relay.log());
        let shown = ids(&setting, &format!("{name} WHERE attempt IS NOT NULL")).await?;
        assert_eq!(shown, [1, 2], "{name}, {mode}: a row shows the tries of its own event");
    }
    // Out of the parking, too.
    let relay = setting.run()?;
    setting.bind("late").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    setting.parking_is(&relay, "").await?;
    relay.drain(PATIENCE).await?;
    for (name, mode, ..) in OUTBOXES {
        let waiting = ids(&setting, &format!("{name} WHERE relayed_at IS NULL")).await?;
        assert!(waiting.is_empty(), "{name}, {mode}: {waiting:?} {}", relay.log());
        let all = ids(&setting, name).await?.len();
        assert_eq!(all, if mode == "delete" { 0 } else { 8 }, "{name}, {mode}");
    }
    Ok(())
}
