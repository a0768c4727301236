//! What a table is made of, and how the publication has it: what passes by the stream is noticed
//! while the relay runs and caught up with, in order; what matters to no row changes nothing.

use anyhow::{Context, Result};
use harness::consumer::{Consumer, Delivery};
use harness::http;
use harness::relay::Relay;
use harness::wait_until;

use crate::bare::{ids, uuid};
use crate::setting::{PATIENCE, Setting};
use crate::tables::PARTITIONED;

/// An event in a partition of January.
fn insert(number: u32, table: &str) -> String {
    format!("INSERT INTO {table} (id, day) VALUES ('{}', '2026-01-05')", uuid(number))
}

async fn all_in_order(consumer: &Consumer, numbers: &[u32], relay: &Relay) -> Result<()> {
    let wanted: Vec<_> = numbers.iter().copied().map(uuid).collect();
    let came = async || Ok(consumer.distinct() >= wanted.len());
    wait_until("every event", PATIENCE, came).await.with_context(|| relay.log())?;
    let mut came = ids(&consumer.deliveries(<[Delivery]>::to_vec));
    let mut seen = std::collections::BTreeSet::new();
    came.retain(|id| seen.insert(id.clone()));
    assert_eq!(came, wanted, "{}", relay.log());
    Ok(())
}

struct Part {
    name: &'static str,
    table: &'static str,
    /// Somebody makes it.
    makes: &'static str,
    says: &'static str,
    /// An event in it, if it can hold one.
    into: Option<&'static str>,
    /// What is done after the hint was followed.
    then: &'static str,
}

const PLAIN: &str = "CREATE TABLE outbox_messages (id uuid PRIMARY KEY, topic text DEFAULT 't',
    payload jsonb DEFAULT '{}', day date NOT NULL, relayed_at timestamptz)";

const PARTS: [Part; 4] = [
    Part {
        name: "a child",
        table: PLAIN,
        makes: "CREATE TABLE child () INHERITS (outbox_messages)",
        says: "tables that inherit from it (public.child)",
        into: Some("child"),
        then: "WITH moved AS (DELETE FROM child RETURNING *) INSERT INTO outbox_messages SELECT * FROM moved",
    },
    Part {
        name: "an unlogged partition",
        table: PARTITIONED,
        makes: "ALTER TABLE outbox_messages DETACH PARTITION january; DROP TABLE january;
            CREATE UNLOGGED TABLE unlogged PARTITION OF outbox_messages DEFAULT",
        says: "are unlogged (public.unlogged)",
        into: Some("outbox_messages"),
        then: "",
    },
    Part {
        name: "an unlogged partition of a partition",
        table: PARTITIONED,
        makes: "CREATE TABLE later PARTITION OF outbox_messages DEFAULT PARTITION BY RANGE (day);
            DROP TABLE january; CREATE UNLOGGED TABLE unlogged PARTITION OF later DEFAULT",
        says: "are unlogged (public.unlogged)",
        into: Some("outbox_messages"),
        then: "",
    },
    Part {
        name: "a foreign partition",
        table: PARTITIONED,
        makes: "CREATE FOREIGN DATA WRAPPER away; CREATE SERVER away FOREIGN DATA WRAPPER away;
            ALTER TABLE outbox_messages DROP CONSTRAINT outbox_messages_pkey;
            CREATE FOREIGN TABLE away PARTITION OF outbox_messages DEFAULT SERVER away",
        says: "are foreign tables (public.away)",
        into: None,
        then: "",
    },
];

#[tokio::test]
async fn parts_that_are_not_in_the_stream_are_noticed_while_it_runs() -> Result<()> {
    let outcomes = futures_util::future::join_all(
        PARTS.iter().map(async |part| is_noticed(part).await.with_context(|| part.name)),
    );
    outcomes.await.into_iter().collect()
}

async fn is_noticed(part: &Part) -> Result<()> {
    let setting = Setting::bare().await?.set("session.backoff_max", "500ms");
    setting.sql(part.table).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    setting.sql(&insert(1, "outbox_messages")).await?;
    all_in_order(&consumer, &[1], &relay).await?;
    setting.all_marked().await?;
    setting.sql(part.makes).await?;
    // An event before anybody can have noticed it.
    if let Some(into) = part.into {
        setting.sql(&insert(2, into)).await?;
    }
    // And WAL, by which it is asked at all.
    let mut hint = String::new();
    let reason = wait_until("the reason", PATIENCE, async || {
        setting.sql("SELECT pg_logical_emit_message(true, 'other', '')").await?;
        let answer = http::get(address, "/readyz").await?;
        let told = answer.json()?;
        let reason = &told["reasons"][0];
        hint = reason["hint"].as_str().unwrap_or_default().to_owned();
        Ok(answer.code == 503 && reason["what"].as_str().unwrap_or_default().contains(part.says))
    });
    reason.await.with_context(|| relay.log())?;
    let says = async || Ok(setting.status().await?.to_string().contains(part.says));
    wait_until("status to say so", PATIENCE, says).await?;
    // What the hint says, as it stands.
    let sql = hint.split("  -- ").next().unwrap_or_default();
    setting.sql(sql).await.with_context(|| hint.clone())?;
    setting.sql(part.then).await?;
    let table = part.into.map_or("january", |_| "outbox_messages");
    setting.sql(&insert(3, table)).await?;
    let numbers: &[u32] = if part.into.is_some() { &[1, 2, 3] } else { &[1, 3] };
    all_in_order(&consumer, numbers, &relay).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// Of the publication, or beside it.
const HARMLESS: [&str; 7] = [
    "CREATE TABLE another (id int PRIMARY KEY); ALTER PUBLICATION pgoutbox ADD TABLE another",
    "ALTER PUBLICATION pgoutbox DROP TABLE another",
    "ALTER PUBLICATION pgoutbox SET TABLE outbox_messages",
    "GRANT SELECT ON outbox_messages TO PUBLIC",
    "COMMENT ON PUBLICATION pgoutbox IS 'of the outbox'",
    "ALTER TABLE outbox_messages ADD COLUMN more int; CREATE INDEX ON outbox_messages (more)",
    "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
     CREATE TRIGGER nothing BEFORE INSERT ON outbox_messages FOR EACH ROW EXECUTE FUNCTION nothing()",
];

async fn nothing_is_done(setting: &Setting, alterations: &[&str], while_away: bool) -> Result<()> {
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let slot = format!(
        "SELECT catalog_xmin::text FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    let mut relay = setting.run()?;
    let mut numbers = Vec::new();
    for (number, alteration) in (1..).zip(alterations) {
        setting.sql(&insert(number, "outbox_messages")).await?;
        numbers.push(number);
        all_in_order(&consumer, &numbers, &relay).await?;
        setting.all_marked().await?;
        if while_away {
            relay.drain(PATIENCE).await?;
        }
        setting.sql(alteration).await.with_context(|| (*alteration).to_owned())?;
        if while_away {
            relay = setting.run()?;
        }
    }
    let last = u32::try_from(alterations.len())? + 1;
    setting.sql(&insert(last, "outbox_messages")).await?;
    numbers.push(last);
    all_in_order(&consumer, &numbers, &relay).await?;
    // Whatever is done about a change is done before something behind it is acknowledged.
    let here: String = setting.ask("SELECT pg_current_wal_insert_lsn()::text").await?;
    let acknowledged = format!(
        "SELECT confirmed_flush_lsn >= '{here}' FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    setting.until("the acknowledgement", &acknowledged).await.with_context(|| relay.log())?;
    assert_eq!(relay.sessions(), 1, "{}", relay.log());
    assert_eq!(consumer.total(), consumer.distinct(), "{}", relay.log());
    let _: String = setting.ask(&slot).await?;
    for text in ["recreated", "passed by"] {
        assert!(!relay.log().contains(text), "{text}: {}", relay.log());
    }
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn what_matters_to_no_row_makes_no_slot_again() -> Result<()> {
    let of_table = Setting::bare().await?;
    of_table.sql(PLAIN).await?;
    let owner = format!(
        "CREATE ROLE o_{0} SUPERUSER; ALTER PUBLICATION pgoutbox OWNER TO o_{0}",
        of_table.database
    );
    let running: Vec<&str> = HARMLESS.into_iter().chain([owner.as_str()]).collect();
    nothing_is_done(&of_table, &running, false).await?;
    let of_table = Setting::bare().await?;
    of_table.sql(PLAIN).await?;
    nothing_is_done(&of_table, &HARMLESS, true).await?;
    // With its schema, from Postgres 15 on, it has no entry of its own.
    let of_schema = Setting::bare().await?;
    if of_schema.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        return Ok(());
    }
    let publication =
        "CREATE PUBLICATION pgoutbox FOR TABLES IN SCHEMA public WITH (publish = 'insert')";
    of_schema.sql(&format!("{PLAIN}; {publication}")).await?;
    let [_, _, _, beside @ ..] = HARMLESS;
    nothing_is_done(&of_schema, &beside, true).await?;
    // Out of it and back.
    let consumer = of_schema.consumer().await?;
    of_schema
        .sql(&format!(
            "{}; CREATE SCHEMA other; ALTER TABLE outbox_messages SET SCHEMA other;",
            insert(11, "outbox_messages")
        ))
        .await?;
    of_schema.sql(&insert(12, "other.outbox_messages")).await?;
    of_schema.sql("ALTER TABLE other.outbox_messages SET SCHEMA public").await?;
    of_schema.sql(&insert(13, "outbox_messages")).await?;
    let relay = of_schema.run()?;
    all_in_order(&consumer, &[11, 12, 13], &relay).await?;
    relay.drain(PATIENCE).await
}

/// Rows of before come under one name, and rows of after under the other.
#[tokio::test]
async fn rows_come_under_other_names_from_now_on() -> Result<()> {
    let cases = [(true, true), (true, false), (false, true), (false, false)];
    let outcomes = futures_util::future::join_all(cases.map(async |(to_root, is_running)| {
        let outcome = switched(to_root, is_running).await;
        outcome.with_context(|| format!("to root: {to_root}, relay running: {is_running}"))
    }));
    outcomes.await.into_iter().collect()
}

async fn switched(to_root: bool, is_running: bool) -> Result<()> {
    let setting = Setting::bare().await?.set("session.backoff_max", "500ms");
    let publication = format!(
        "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages
             WITH (publish = 'insert', publish_via_partition_root = {})",
        !to_root
    );
    setting.sql(&format!("{PARTITIONED}; {publication}")).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let mut relay = setting.run()?;
    setting.sql(&insert(1, "outbox_messages")).await?;
    all_in_order(&consumer, &[1], &relay).await?;
    setting.all_marked().await?;
    if !is_running {
        relay.drain(PATIENCE).await?;
    }
    setting.sql(&insert(2, "outbox_messages")).await?;
    let alter = "ALTER PUBLICATION pgoutbox SET (publish_via_partition_root";
    setting.sql(&format!("{alter} = {to_root})")).await?;
    setting.sql(&insert(3, "outbox_messages")).await?;
    if !is_running {
        relay = setting.run()?;
    }
    setting.sql(&insert(4, "outbox_messages")).await?;
    all_in_order(&consumer, &[1, 2, 3, 4], &relay).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}

/// Each way to publish a table or a part of it that `check` has nothing against.
#[tokio::test]
async fn a_partition_by_itself_and_with_its_root() -> Result<()> {
    let of = |tables: &str, is_via_root: bool| {
        format!(
            "CREATE PUBLICATION pgoutbox FOR TABLE {tables}
                 WITH (publish = 'insert', publish_via_partition_root = {is_via_root})"
        )
    };
    let all = "CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')".to_owned();
    // What is configured, how it is published, and whether that works.
    let cases = [
        ("outbox_messages", of("outbox_messages, january", true), true),
        ("outbox_messages", of("outbox_messages, january", false), true),
        ("outbox_messages", of("january, february", true), false),
        ("outbox_messages", of("january, february", false), false),
        ("january", of("january", true), true),
        ("january", of("january", false), true),
        ("january", of("outbox_messages", true), false),
        ("january", of("outbox_messages", false), true),
        ("january", all, true),
    ];
    let outcomes = futures_util::future::join_all(cases.map(async |(table, sql, works)| {
        by_itself(table, &sql, works).await.with_context(|| format!("{table}: {sql}"))
    }));
    outcomes.await.into_iter().collect()
}

async fn by_itself(table: &str, publication: &str, works: bool) -> Result<()> {
    let setting = Setting::bare().await?.set("tables.0.name", table);
    let february = "CREATE TABLE february PARTITION OF outbox_messages FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')";
    setting.sql(&format!("{PARTITIONED}; {february}; {publication}")).await?;
    if !works {
        let output = setting.program.output(&["init", "--declare"]).await?;
        assert_eq!(output.status.code(), Some(1));
        return Ok(());
    }
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let mut numbers = Vec::new();
    let mut relay = setting.run()?;
    for number in 1..4 {
        setting.sql(&insert(number, "outbox_messages")).await?;
        // Of another partition.
        let other = insert(number + 10, "outbox_messages").replace("-01-05", "-02-05");
        setting.sql(&other).await?;
        numbers.push(number);
        if table == "outbox_messages" {
            numbers.push(number + 10);
        }
        all_in_order(&consumer, &numbers, &relay).await?;
        let all = format!("SELECT count(*) = 0 FROM {table} WHERE relayed_at IS NULL");
        setting.until("the marks", &all).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        relay = setting.run()?;
    }
    relay.reaches("running", PATIENCE).await?;
    assert_eq!(consumer.total(), numbers.len());
    relay.drain(PATIENCE).await
}

/// Rows that the passing of the stream leaves to the list are not delivered, whatever ends the process before, while or after
/// it is made.
#[tokio::test]
async fn what_is_left_to_the_list_does_not_count_as_delivered() -> Result<()> {
    let setting = Setting::bare().await?.set("session.backoff_max", "200ms");
    setting.sql(PLAIN).await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql(&insert(1, "outbox_messages")).await?;
    all_in_order(&consumer, &[1], &relay).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await?;
    for (number, publish) in [(2, ""), (3, "insert")] {
        setting.sql(&insert(number, "outbox_messages")).await?;
        setting.sql(&format!("ALTER PUBLICATION pgoutbox SET (publish = '{publish}')")).await?;
        setting.sql(&insert(number + 2, "outbox_messages")).await?;
    }
    let holder = setting.client().await?;
    holder.batch_execute("BEGIN; LOCK TABLE pgoutbox.catch_up IN SHARE MODE").await?;
    for _ in 0..2 {
        let relay = setting.run()?;
        relay.wait_for_log("rows may have passed by the slot", PATIENCE).await?;
        relay.kill9().await?;
    }
    holder.batch_execute("COMMIT").await?;
    let relay = setting.run()?;
    relay.wait_for_log("listed the rows that wait", PATIENCE).await?;
    relay.kill9().await?;
    let relay = setting.run()?;
    all_in_order(&consumer, &[1, 2, 4, 3, 5], &relay).await?;
    setting.all_marked().await?;
    relay.drain(PATIENCE).await
}
