//! The outbox table changes its shape in mid-stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::events::events;
use harness::http::get;
use harness::wait_until;
use harness::workload::Workload;

use crate::setting::{PATIENCE, Setting, steady};

/// Columns that no field is mapped to come, change and go; the table is written again; the types
/// of mapped columns change into others that can be read.
const CHANGES: [&str; 11] = [
    "ALTER TABLE outbox_messages ADD COLUMN note text",
    "ALTER TABLE outbox_messages ADD COLUMN weight integer NOT NULL DEFAULT 7",
    "ALTER TABLE outbox_messages RENAME COLUMN note TO remark",
    "ALTER TABLE outbox_messages ALTER COLUMN weight TYPE bigint",
    "VACUUM FULL outbox_messages",
    "CLUSTER outbox_messages USING outbox_messages_pkey",
    "ALTER TABLE outbox_messages ALTER COLUMN aggregate_id TYPE varchar(100)",
    "ALTER TABLE outbox_messages DROP COLUMN remark",
    "ALTER TABLE outbox_messages ALTER COLUMN headers TYPE json",
    "ALTER TABLE outbox_messages REPLICA IDENTITY FULL",
    "CREATE INDEX ON outbox_messages (occurred_at)",
];

#[tokio::test]
async fn the_table_changes_under_load() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    for change in CHANGES {
        setting.sql(change).await.context(change)?;
        // Rows of this shape were committed after the change, and came.
        let committed = load.committed();
        let came = consumer.wait_distinct(committed + 20, PATIENCE).await;
        came.with_context(|| format!("{change}\n{}", relay.log()))?;
    }
    setting.judge_load(load, consumer, &relay, 0).await?;
    let sessions = relay.log().matches(" running ").count();
    assert_eq!(sessions, 1, "it connected again:\n{}", relay.log());
    Ok(())
}

/// The relay reads rows of every shape that the table had while it was away, in one transaction
/// too.
#[tokio::test]
async fn the_table_changed_while_the_relay_was_away() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let insert = |n: i64| {
        format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
             VALUES ('order', 'one', 'placed', '{{\"aggregate\": \"one\", \"n\": {n}}}');"
        )
    };
    let mut sql = insert(1);
    for (n, change) in (2..).zip(CHANGES.iter().filter(|change| !change.starts_with("VACUUM"))) {
        sql += &format!("{change}; {}", insert(n));
    }
    setting.sql(&format!("BEGIN; {sql} COMMIT")).await?;
    setting.sql("VACUUM FULL outbox_messages").await?;
    let relay = setting.run()?;
    let ledger = crate::transactions::ledger_of_rows(&setting).await?;
    assert_eq!(ledger.committed.len(), CHANGES.len());
    setting.judge(&ledger, consumer, &relay, 0).await?;
    Ok(())
}

/// Something that somebody does to the outbox while it is written to, and what undoes it.
struct Step {
    what: &'static str,
    does: &'static str,
    undoes: &'static str,
    /// It is not at once seen to be undone: the relay waits for that, not ready.
    waits: bool,
}

const fn step(what: &'static str, does: &'static str, undoes: &'static str, waits: bool) -> Step {
    Step { what, does, undoes, waits }
}

const SWAP: &str = "CREATE TABLE next (LIKE outbox_messages INCLUDING ALL); ALTER TABLE next OWNER TO owner;
    GRANT SELECT, UPDATE ON next TO audit; ALTER TABLE outbox_messages RENAME TO before; ALTER TABLE next RENAME TO outbox_messages;
    ALTER TABLE before RENAME TO before_it";

const STEPS: [Step; 14] = [
    step(
        "the table is renamed",
        "ALTER TABLE outbox_messages RENAME TO away",
        "ALTER TABLE away RENAME TO outbox_messages",
        true,
    ),
    step(
        "the table goes to another schema",
        "CREATE SCHEMA IF NOT EXISTS other; ALTER TABLE outbox_messages SET SCHEMA other",
        "ALTER TABLE other.outbox_messages SET SCHEMA public",
        true,
    ),
    step(
        "the marks are revoked",
        "REVOKE UPDATE ON outbox_messages FROM audit; REVOKE UPDATE (relayed_at) ON outbox_messages FROM audit",
        "GRANT UPDATE ON outbox_messages TO audit",
        // Events go on without their marks.
        false,
    ),
    step(
        "reading is revoked",
        "REVOKE SELECT ON pgoutbox.progress FROM audit",
        "GRANT SELECT ON pgoutbox.progress TO audit",
        true,
    ),
    step(
        "the schema is revoked",
        "REVOKE USAGE ON SCHEMA pgoutbox FROM audit",
        "GRANT USAGE ON SCHEMA pgoutbox TO audit",
        true,
    ),
    step(
        "the id has another type",
        "ALTER TABLE outbox_messages ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE text",
        "ALTER TABLE outbox_messages ALTER COLUMN id TYPE uuid USING id::uuid",
        false,
    ),
    step(
        "the payload has another type",
        "ALTER TABLE outbox_messages ALTER COLUMN payload TYPE text",
        "ALTER TABLE outbox_messages ALTER COLUMN payload TYPE jsonb USING payload::jsonb",
        false,
    ),
    step(
        "a mapped column is dropped and made again",
        "ALTER TABLE outbox_messages DROP COLUMN headers",
        "ALTER TABLE outbox_messages ADD COLUMN headers jsonb",
        false,
    ),
    step(
        "the table leaves the publication",
        "ALTER PUBLICATION pgoutbox DROP TABLE outbox_messages",
        "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
        true,
    ),
    step(
        "the publication is of another table",
        "CREATE TABLE IF NOT EXISTS another (id int PRIMARY KEY); ALTER PUBLICATION pgoutbox SET TABLE another",
        "ALTER PUBLICATION pgoutbox SET TABLE outbox_messages",
        true,
    ),
    step(
        "inserts are not published",
        "ALTER PUBLICATION pgoutbox SET (publish = 'delete')",
        "ALTER PUBLICATION pgoutbox SET (publish = 'insert')",
        true,
    ),
    step(
        "the publication is dropped",
        "DROP PUBLICATION pgoutbox",
        "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WITH (publish = 'insert')",
        true,
    ),
    step(
        "the table is swapped",
        SWAP,
        "ALTER PUBLICATION pgoutbox ADD TABLE outbox_messages",
        true,
    ),
    step(
        "the publication is renamed",
        "ALTER PUBLICATION pgoutbox RENAME TO away",
        "ALTER PUBLICATION away RENAME TO pgoutbox",
        true,
    ),
];

/// Events of one aggregate, one after the other, whatever stands in the way of one.
async fn write(
    url: &str,
    aggregate: usize,
    written: &AtomicUsize,
    is_over: &AtomicBool,
) -> Result<i64> {
    let client = harness::postgres::connect(url).await?;
    let mut n = 0_i64;
    while !is_over.load(Ordering::Relaxed) {
        let sql = format!(
            "INSERT INTO public.outbox_messages (id, aggregate_type, aggregate_id, event_type, payload, occurred_at)
             VALUES (gen_random_uuid(), 'order', '{aggregate}', 'placed',
                     '{{\"aggregate\": {aggregate}, \"n\": {}}}', clock_timestamp())",
            n + 1
        );
        match client.batch_execute(&sql).await {
            Ok(()) => n += 1,
            Err(error) if error.code().is_some() => {}
            Err(error) => return Err(error.into()),
        }
        written.fetch_add(1, Ordering::Relaxed);
        // Load, not synchronisation.
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    Ok(n)
}

/// What takes a mapped column away, a row of that shape, and what brings the column back.
const SHAPES: [[&str; 3]; 4] = [
    [
        "ALTER TABLE outbox_messages RENAME COLUMN payload TO body",
        "INSERT INTO outbox_messages (event_type, aggregate_type, aggregate_id, body, occurred_at) VALUES ('placed', 'order', '0', '{\"aggregate\": 0, \"n\": $n}', clock_timestamp())",
        "ALTER TABLE outbox_messages RENAME COLUMN body TO payload",
    ],
    [
        "ALTER TABLE outbox_messages RENAME COLUMN id TO key",
        "INSERT INTO outbox_messages (event_type, aggregate_type, aggregate_id, payload, occurred_at) VALUES ('placed', 'order', '0', '{\"aggregate\": 0, \"n\": $n}', clock_timestamp())",
        "ALTER TABLE outbox_messages RENAME COLUMN key TO id",
    ],
    [
        "ALTER TABLE outbox_messages ALTER COLUMN payload TYPE jsonb[] USING ARRAY[payload]",
        "INSERT INTO outbox_messages (event_type, aggregate_type, aggregate_id, payload, occurred_at) VALUES ('placed', 'order', '0', ARRAY['{\"aggregate\": 0, \"n\": $n}'::jsonb], clock_timestamp())",
        "ALTER TABLE outbox_messages ALTER COLUMN payload TYPE jsonb USING payload[1]",
    ],
    // Nobody but the stream ever saw it.
    [
        "SELECT",
        "BEGIN; ALTER TABLE outbox_messages RENAME COLUMN payload TO body; INSERT INTO outbox_messages (event_type, aggregate_type, aggregate_id, body, occurred_at) \
         VALUES ('placed', 'order', '0', '{\"aggregate\": 0, \"n\": $n}', clock_timestamp()); ALTER TABLE outbox_messages RENAME COLUMN body TO payload; COMMIT",
        "SELECT",
    ],
];

/// A row whose shape no mapping fits is read from the table, once that has the columns again. Before,
/// the relay stood until somebody changed the mapping, twice.
#[tokio::test]
async fn a_row_of_another_shape_is_read_from_the_table() -> Result<()> {
    let setting = Setting::shared().await?.set("session.backoff_max", "300ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    let mut n = 0;
    let mut insert = async |sql: &str| {
        n += 1;
        setting.sql(&sql.replace("$n", &n.to_string())).await.map(|()| n)
    };
    let usual = SHAPES[1][1];
    for [does, row, undoes] in SHAPES {
        insert(usual).await?;
        setting.sql(does).await?;
        insert(row).await?;
        if does != "SELECT" {
            let is_unready = async || Ok(get(address, "/readyz").await?.code == 503);
            wait_until("it to be not ready", PATIENCE, is_unready).await.context(does)?;
        }
        setting.sql(undoes).await?;
        let last = insert(usual).await?;
        let all = async || Ok(came(&consumer)?.get(&0) == Some(&last));
        wait_until("all events", PATIENCE, all)
            .await
            .with_context(|| format!("{does}: {:?}\n{}", came(&consumer), relay.log()))?;
    }
    setting.all_marked().await?;
    assert!(relay.is_running(), "{}", relay.log());
    relay.drain(PATIENCE).await
}

/// The last event of each aggregate that came, none missing before it.
fn came(consumer: &Consumer) -> Result<BTreeMap<i64, i64>> {
    consumer.deliveries(|all| {
        let (mut last, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for delivery in all {
            let told = delivery.json()?;
            let number = |name: &str| told[name].as_i64().context("no number");
            let (aggregate, n) = (number("aggregate")?, number("n")?);
            if seen.insert((aggregate, n)) {
                let before = last.insert(aggregate, n).unwrap_or(0);
                anyhow::ensure!(n == before + 1, "{aggregate}: {n} after {before}");
            }
        }
        Ok(last)
    })
}

/// Whatever is undone again is waited out: no exit, nothing lost, in order.
#[tokio::test]
async fn what_is_undone_again_is_waited_out() -> Result<()> {
    const WRITERS: usize = 3;
    let owner = Setting::bare().await?;
    let setting = owner.with_roles().await?.set("session.backoff_max", "300ms");
    let audit = owner.audit_role();
    let consumer = owner.consumer().await?;
    let relay = setting.run()?;
    let address = relay.http(PATIENCE).await?;
    let (written, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let writers = futures_util::future::try_join_all(
        (0..WRITERS).map(|aggregate| write(&owner.database_url, aggregate, &written, &is_over)),
    );
    let more = async |count: usize| {
        let before = written.load(Ordering::Relaxed);
        let is_more = async || Ok(written.load(Ordering::Relaxed) >= before + count);
        wait_until("more events", PATIENCE, is_more).await
    };
    let suite = async {
        more(30).await?;
        for Step { what, does, undoes, waits } in &STEPS {
            let as_audit = |sql: &str| {
                sql.replace("audit", &audit).replace("OWNER TO owner", "OWNER TO CURRENT_USER")
            };
            owner.sql(&as_audit(does)).await.context(*what)?;
            more(45).await?;
            if *waits {
                let is_unready = async || Ok(get(address, "/readyz").await?.code == 503);
                let waited = wait_until("it to be not ready", PATIENCE, is_unready).await;
                waited.with_context(|| format!("{what}\n{}", relay.log()))?;
            }
            owner.sql(&as_audit(undoes)).await.context(*what)?;
            more(45).await?;
            let rows = "SELECT count(*) FROM outbox_messages WHERE occurred_at < now() - interval '300 ms' AND relayed_at IS NULL";
            wait_until("all to be marked", PATIENCE, async || {
                Ok(owner.ask::<i64>(rows).await? == 0)
            })
            .await
            .with_context(|| format!("{what}: {:?}\n{}", came(&consumer), relay.log()))?;
            came(&consumer).with_context(|| format!("{what}\n{}", relay.log()))?;
            assert!(relay.is_running(), "{what}\n{}", relay.log());
        }
        is_over.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>(())
    };
    let (last, ()) = tokio::try_join!(writers, suite)?;
    let last: BTreeMap<i64, i64> = (0..).zip(last).collect();
    wait_until("the last of each", PATIENCE, async || Ok(came(&consumer)? == last))
        .await
        .with_context(|| format!("{:?} of {last:?}\n{}", came(&consumer), relay.log()))?;
    let repeated = consumer.total() - consumer.distinct();
    println!("{} steps, {last:?} events, {repeated} repeated", STEPS.len());
    relay.drain(PATIENCE).await
}

/// All files of the table are copied, under a lock on it.
#[tokio::test]
async fn the_table_moves_to_another_tablespace_under_load() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let load = Workload::start(&setting.database_url, steady()).await?;
    let client = setting.client().await?;
    // Of the whole server; gone with it.
    let space = format!("space_{}", setting.database);
    client.batch_execute("SET allow_in_place_tablespaces = on").await?;
    client.batch_execute(&format!("CREATE TABLESPACE {space} LOCATION ''")).await?;
    for to in [space.as_str(), "pg_default"] {
        for what in ["TABLE outbox_messages", "INDEX outbox_messages_pkey"] {
            client.batch_execute(&format!("ALTER {what} SET TABLESPACE {to}")).await?;
            let came = consumer.wait_distinct(load.committed() + 20, PATIENCE).await;
            came.with_context(|| format!("{what} to {to}\n{}", relay.log()))?;
        }
    }
    setting.judge_load(load, consumer, &relay, 0).await?;
    assert_eq!(relay.sessions(), 1, "it connected again:\n{}", relay.log());
    client.batch_execute(&format!("DROP TABLESPACE {space}")).await?;
    Ok(())
}

/// `DROP OWNED BY` takes every right of a role, in one statement, as those who remove a role do.
#[tokio::test]
async fn the_relays_role_loses_all_rights_and_gets_them_back() -> Result<()> {
    let owner = Setting::bare().await?;
    let setting = owner.with_roles().await?.set("session.backoff_max", "300ms");
    let consumer = owner.consumer().await?;
    let (relay, address) = setting.serve().await?;
    owner.insert(events(1..=3, "good")).await?;
    owner.all_marked().await?;
    owner.sql(&format!("DROP OWNED BY {}", owner.audit_role())).await?;
    owner.insert(events(4..=6, "good")).await?;
    let is_unready = async || Ok(get(address, "/readyz").await?.code == 503);
    wait_until("it to be not ready", PATIENCE, is_unready).await.with_context(|| relay.log())?;
    let checked = setting.program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(!checked.status.success() && told.contains("GRANT"), "{told}");
    owner.with_roles().await?;
    consumer.wait_distinct(6, PATIENCE).await.with_context(|| relay.log())?;
    owner.all_marked().await.with_context(|| relay.log())?;
    assert!(relay.is_running(), "{}", relay.log());
    relay.drain(PATIENCE).await
}
