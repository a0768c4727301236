//! Tables with marks of different kinds, and without, on one relay.

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::{event, events};
use harness::relay::Relay;
use harness::wait_until;

use crate::check::Checks as _;
use crate::place::Counted as _;
use crate::setting::{PATIENCE, Setting, ids, uuid};

const TABLES: [(&str, &str); 4] =
    [("updated", "update"), ("unmarked", "none"), ("deleted", "delete"), ("beside", "side_table")];

/// One table for each kind of mark.
async fn four() -> Result<Setting> {
    let mut setting = Setting::bare().await?.set("tables.0.mark.state", "SENT");
    for (number, (name, mode)) in TABLES.iter().enumerate() {
        setting = setting
            .set(&format!("tables.{number}.name"), name)
            .set(&format!("tables.{number}.audit.mode"), mode);
        let state = if number == 0 { ", state text DEFAULT 'NEW'" } else { "" };
        setting
            .sql(&format!(
                "CREATE TABLE {name} (id text PRIMARY KEY, topic text DEFAULT 'here', payload jsonb DEFAULT '1',
                     occurred_at timestamptz DEFAULT clock_timestamp(){state})"
            ))
            .await?;
    }
    setting.init().await?;
    Ok(setting)
}

async fn insert(setting: &Setting, n: u32) -> Result<()> {
    for (name, _) in TABLES {
        setting.sql(&format!("INSERT INTO {name} (id) VALUES ('{name} {n}')")).await?;
    }
    Ok(())
}

/// Waits until just these came, whatever their order.
async fn came(consumer: &Consumer, relay: &Relay, wanted: &[String]) -> Result<()> {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    wait_until("the events", PATIENCE, async || {
        let mut came = ids(&consumer.deliveries(<[_]>::to_vec));
        came.sort();
        Ok(came == wanted)
    })
    .await
    .with_context(|| format!("{:?}\n{}", ids(&consumer.deliveries(<[_]>::to_vec)), relay.log()))
}

fn all(numbers: &[u32]) -> Vec<String> {
    let each = |n: &u32| TABLES.map(|(name, _)| format!("{name} {n}"));
    numbers.iter().flat_map(each).collect()
}

async fn marked(setting: &Setting, rows: i64) -> Result<()> {
    let sql = format!(
        "SELECT (SELECT count(*) FROM updated WHERE state = 'SENT') = {rows}
            AND (SELECT count(*) FROM deleted) = 0
            AND (SELECT count(*) FROM pgoutbox.relayed) = {rows}
            AND (SELECT count(*) FROM pgoutbox.relayed WHERE outbox = 'beside'::regclass) = {rows}"
    );
    setting.until("each table's own marks", &sql).await
}

#[tokio::test]
async fn each_table_has_its_own_kind_of_mark() -> Result<()> {
    let setting = four().await?;
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    insert(&setting, 1).await?;
    came(&consumer, &relay, &all(&[1])).await?;
    marked(&setting, 1).await?;
    relay.drain(PATIENCE).await?;

    let verified: serde_json::Value =
        serde_json::from_slice(&setting.program.output(&["verify", "--json"]).await?.stdout)?;
    let delivered = |table: usize| verified["tables"][table]["delivered"]["rows"].as_u64();
    assert_eq!([0, 1, 2, 3].map(delivered), [Some(1), None, None, Some(1)], "{verified}");

    // A table without marks lost what it lost: the relay stops, unless somebody says otherwise.
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    insert(&setting, 2).await?;
    let halted = setting.program.output(&["run"]).await?;
    let said = String::from_utf8_lossy(&halted.stderr).into_owned();
    assert_eq!(halted.status.code(), Some(1), "{said}");
    assert!(said.contains("on_slot_loss"), "{said}");

    let going_on = setting.clone().set("postgres.on_slot_loss", "catch_up");
    let relay = going_on.run()?;
    let mut wanted = all(&[1, 2]);
    wanted.retain(|id| id != "unmarked 2");
    came(&consumer, &relay, &wanted).await?;
    marked(&setting, 2).await?;
    insert(&setting, 3).await?;
    wanted.extend(all(&[3]));
    came(&consumer, &relay, &wanted).await?;
    let log = relay.log();
    assert!(
        log.contains("without marks there is no record of which rows of this table wait"),
        "{log}"
    );
    assert!(log.contains("public.unmarked"), "{log}");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn a_row_that_comes_with_its_whole_mark_was_relayed_before() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "box")
        .set("tables.0.mark.state", "sent")
        .set("tables.0.mark.done", "true");
    setting
        .sql(
            "CREATE TYPE state AS ENUM ('new', 'sent');
             CREATE TABLE box (id text PRIMARY KEY, topic text DEFAULT 'here', payload jsonb DEFAULT '1',
                 state state DEFAULT 'new', done boolean)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    setting
        .sql(
            "INSERT INTO box (id, state, done) VALUES
                 ('marked', 'sent', true), ('in part', 'sent', NULL), ('in part too', 'new', true),
                 ('new', 'new', false)",
        )
        .await?;
    came(&consumer, &relay, &["in part", "in part too", "new"].map(str::to_owned)).await?;
    setting
        .until("all to be marked", "SELECT count(*) = 4 FROM box WHERE state = 'sent' AND done")
        .await?;
    relay.drain(PATIENCE).await?;
    assert!(relay.log().contains("came_marked=1"), "{}", relay.log());
    Ok(())
}

/// Each is told before anything is made or published, with what helps.
#[tokio::test]
async fn a_mark_that_cannot_be_is_refused() -> Result<()> {
    let cases = [
        ("n text", "x", "has no column \"m\" for the mark"),
        ("m jsonb", "x", "its type must be text, varchar, an enum"),
        ("m text", "now()", "its type must be timestamptz or timestamp"),
        ("m smallint", "done", "\"done\" is not a number"),
        ("m boolean", "1", "\"1\" is not a boolean"),
        ("m text DEFAULT 'done'", "done", "each row is inserted with its mark"),
        ("m text CHECK (m <> 'done')", "done", "violates check constraint"),
    ];
    for (column, mark, wanted) in cases {
        let setting =
            Setting::bare().await?.set("tables.0.name", "box").set("tables.0.mark.m", mark);
        setting
            .sql(&format!(
                "CREATE TABLE box (id text PRIMARY KEY, payload jsonb, topic text, {column});
                 INSERT INTO box VALUES ('1', '1', 'here')"
            ))
            .await?;
        let output = setting.program.output(&["init"]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{column}: {said}");
        assert!(said.contains(wanted) && said.contains("hint: "), "{column}: {said}");
    }
    Ok(())
}

/// As docs/marks.md says: what one mode has marked counts in the other once its marks are moved.
#[tokio::test]
async fn marks_are_moved_where_the_mode_is_changed() -> Result<()> {
    let manual = include_str!("../../docs/marks.md");
    let (_, section) = manual.split_once("## Changing the mode").context("the section")?;
    let blocks = section.split("```sql").skip(1).filter_map(|rest| rest.split("```").next());
    let [to_side_table, to_update, to_delete] = blocks.take(3).collect::<Vec<_>>()[..] else {
        anyhow::bail!("three statements");
    };
    let mut words = [to_side_table, to_update, to_delete].into_iter().zip([
        include_str!("../../sql/mark/move_beside.sql"),
        include_str!("../../sql/mark/move_into_rows.sql"),
        include_str!("../../sql/mark/remove_beside.sql"),
    ]);
    assert!(words.all(|(manual, file)| manual.trim() == as_in_the_manual(file)), "{section}");
    let setting = Setting::shared().await?;
    let side_table = setting.clone().set("audit.mode", "side_table");
    let _consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql("INSERT INTO outbox_messages (topic, payload) SELECT 't', '{}' FROM generate_series(1, 5)")
        .await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(side_table.counts().await?[1], 0, "marks of another mode do not count");
    setting.sql(to_side_table).await?;
    side_table.until_counted([5, 5, 0, 0, 0]).await?;
    setting.sql("UPDATE outbox_messages SET relayed_at = NULL").await?;
    setting.sql(to_update).await?;
    setting.until_counted([5, 5, 0, 0, 0]).await?;
    setting.sql(to_delete).await?;
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM outbox_messages").await?, 0);
    Ok(())
}

/// A file for the table that `init` makes, without its comments.
fn as_in_the_manual(file: &str) -> String {
    let lines = file.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    [
        (":\"schema\".:\"table\"", "public.outbox_messages"),
        (":'title'", "'public.outbox_messages'"),
        (":\"id\"", "id"),
        (":row_time", "coalesce(outbox.occurred_at::text, '')"),
        (":in_row", "outbox.relayed_at IS NOT NULL"),
        (":marked_at", "outbox.relayed_at"),
        (":set_mark", "relayed_at = mark.relayed_at"),
    ]
    .into_iter()
    .fold(lines, |text, (name, value)| text.replace(name, value))
}

/// The modes from and to.
const CHANGES: [(&str, &str); 4] = [
    ("update", "side_table"),
    ("side_table", "update"),
    ("update", "delete"),
    ("side_table", "delete"),
];

/// Rows whose marks are where the mode of before put them are counted, the SQL that is printed moves the
/// marks, and a catch-up that comes before that says what it does.
#[tokio::test]
async fn marks_of_a_former_mode_are_found_and_moved() -> Result<()> {
    for (from, to) in CHANGES {
        for is_moved in [true, false] {
            former_marks(from, to, is_moved).await.with_context(|| format!("{from} to {to}"))?;
        }
    }
    Ok(())
}

async fn former_marks(from: &str, to: &str, is_moved: bool) -> Result<()> {
    let before = Setting::bare().await?.set("audit.mode", from);
    before.init().await?;
    // Where somebody moves the marks, a time reads otherwise than in the stream.
    let zone = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''Asia/Tokyo''', current_database()); END $$";
    before.sql(zone).await?;
    let consumer = before.bound("good").await?;
    let relay = before.run()?;
    before.insert(events(1..=3, "good")).await?;
    let marked = match from {
        "update" => "SELECT count(relayed_at) = 3 FROM outbox_messages",
        _ => "SELECT count(*) = 3 FROM pgoutbox.relayed",
    };
    before.until("their marks", marked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    before.check().await?.has_not("mark-former");

    let after = before.clone().set("audit.mode", to);
    after.init().await?;
    let checked = after.check().await?;
    let found = checked.has("mark-former", "warning");
    assert!(found["what"].as_str().is_some_and(|what| what.starts_with("3 rows")), "{found}");
    let verified = after.program.output(&["verify", "--json"]).await?.stdout;
    let verified: serde_json::Value = serde_json::from_slice(&verified)?;
    let is_it = |finding: &serde_json::Value| finding["name"] == "mark-former";
    assert!(verified["findings"].as_array().is_some_and(|all| all.iter().any(is_it)), "{verified}");
    // Another row with the id of one that was delivered: no mark is of it.
    let third = uuid(3);
    let reused = format!(
        "DELETE FROM outbox_messages WHERE id = '{third}'; INSERT INTO outbox_messages (id, topic, payload) VALUES ('{third}', 'good', '{{}}')"
    );
    if is_moved {
        if from == "side_table" {
            after.sql(&reused).await?;
        }
        after.carry_out(found).await?;
        after.check().await?.has_not("mark-former");
        if from == "update" {
            after.sql(&reused).await?;
        }
    }
    after.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let relay = after.run()?;
    after.insert(event(4, "good")).await?;
    let wanted = if is_moved { vec![1, 2, 3, 3, 4] } else { vec![1, 2, 3, 1, 2, 3, 4] };
    let wanted: Vec<String> = wanted.into_iter().map(uuid).collect();
    came(&consumer, &relay, &wanted).await?;
    relay.drain(PATIENCE).await?;
    let (log, said) = (relay.log(), "rows are published again whose marks were not moved: 3 rows");
    assert_eq!(log.contains(said), !is_moved, "{log}");
    Ok(())
}
