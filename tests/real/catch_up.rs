//! Rows that the slot does not hold: listed, in order, none missed, none twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result};
use harness::postgres::{self, Postgres};
use harness::workload::{self, Until, Workload};
use harness::{shared, wait_until};
use pgoutbox::error::{Class, Fault};
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::core::event::pgoutput::{self, Cell, Message, StoredRow, Tuple};
use pgoutbox::testing::postgres::OutboxTable;
use pgoutbox::testing::slot;
use pgoutbox::testing::slot::catch_up::{self, CatchUp, Patience};
use serde_json::Value;
use tokio_postgres::Client;

use crate::bare::uuid;
use crate::setting::{PATIENCE, Setting};

/// What the relay would have at hand.
struct Side {
    config: Config,
    client: Client,
    outboxes: Vec<OutboxTable>,
}

impl Side {
    async fn of(setting: &Setting, settings: &[(&str, &str)]) -> Result<Self> {
        let slot = ("postgres.slot", setting.database.as_str());
        let url = ("postgres.url", setting.database_url.as_str());
        let all = settings.iter().copied().chain([slot, url]);
        let env = all.map(|(key, value)| {
            (format!("PGOUTBOX_{}", key.replace('.', "__").to_uppercase()).into(), value.into())
        });
        let sources = Sources { env: env.collect(), ..Sources::default() };
        let config = Config::load(&sources, Needs::POSTGRES)?;
        let client = setting.client().await?;
        let outboxes = slot::preflight(&client, &config).await?.tables;
        Ok(Self { config, client, outboxes })
    }

    async fn ensure(&self) -> Result<Option<String>, Fault> {
        catch_up::ensure_slot(&self.config, &self.client, &self.outboxes).await
    }

    async fn pending(&self) -> Result<CatchUp> {
        let pending = catch_up::pending(&self.client, &self.config.postgres.slot).await?;
        pending.context("no catch-up is under way")
    }

    /// The whole list, in chunks.
    async fn listed(&self, limit: u64) -> Result<Vec<(u64, StoredRow)>> {
        let (catch_up, mut rows, mut from) = (self.pending().await?, Vec::new(), 0);
        while from < catch_up.total {
            let chunk =
                catch_up::fetch(&self.client, &self.config, &self.outboxes, &catch_up, from, limit);
            let chunk = chunk.await?;
            assert!(chunk.next > from && chunk.next <= catch_up.total, "{from}: {}", chunk.next);
            assert!(chunk.rows.iter().all(|(n, _)| (from..chunk.next).contains(n)));
            from = chunk.next;
            rows.extend(chunk.rows);
        }
        assert!(rows.is_sorted_by(|(a, _), (b, _)| a < b), "numbers rise");
        Ok(rows)
    }

    /// Each inserted row that the slot's stream brings from its beginning on.
    async fn streamed(&self, slot: &str) -> Result<Vec<StoredRow>> {
        let sql = "SELECT data FROM pg_logical_slot_peek_binary_changes($1::text::name, NULL, NULL,
            'proto_version', '1', 'publication_names', 'pgoutbox')";
        let mut shapes = HashMap::new();
        let mut rows = Vec::new();
        for row in self.client.query(sql, &[&slot]).await? {
            let data: Vec<u8> = row.try_get(0)?;
            match pgoutput::decode(&data.into())? {
                Message::Relation(relation) => {
                    shapes.insert(relation.oid, relation.columns);
                }
                Message::Insert { relation, tuple } => {
                    let table = self.outboxes.iter().position(|table| table.relation == relation);
                    let columns = shapes.get(&relation).context("no shape")?.clone().into();
                    let table = table.context("another table's row")?;
                    rows.push(StoredRow { table, columns, tuple, commit_time: 0, xid: None });
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    fn slot(&self) -> &str {
        &self.config.postgres.slot
    }

    async fn drop_slot(&self) -> Result<()> {
        self.client
            .execute("SELECT pg_drop_replication_slot($1::text::name)", &[&self.slot()])
            .await?;
        Ok(())
    }
}

/// A column's text.
fn text(row: &StoredRow, name: &str) -> Option<String> {
    let at = row.columns.iter().position(|column| column.name == name)?;
    let mut cells: Vec<Cell> = Vec::new();
    row.tuple.read_into(&mut cells).ok()?;
    String::from_utf8(row.tuple.text(cells[at])?.to_vec()).ok()
}

fn id(row: &StoredRow) -> String {
    text(row, "id").unwrap_or_default()
}

fn ids(rows: &[(u64, StoredRow)]) -> Vec<String> {
    rows.iter().map(|(_, row)| id(row)).collect()
}

async fn insert(client: &Client, numbers: impl IntoIterator<Item = u32>) -> Result<()> {
    for number in numbers {
        let insert =
            "INSERT INTO outbox_messages (id, topic, payload) VALUES ($1::text::uuid, 't', '{}')";
        client.execute(insert, &[&uuid(number)]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn list_and_stream_together_hold_every_row_once_and_in_order() -> Result<()> {
    let setting = Setting::shared().await?;
    let side = Side::of(&setting, &[]).await?;
    let options = workload::Options {
        until: Until::Stopped,
        pause: Duration::from_millis(3),
        large: 200,
        ..Default::default()
    };
    let mut workload = Workload::start(&setting.database_url, options).await?;
    let grown = async |by: usize| {
        let before = workload.committed();
        wait_until("more events", PATIENCE, async || Ok(workload.committed() >= before + by)).await
    };
    grown(300).await?;
    side.drop_slot().await?;
    grown(300).await?;
    let why = side.ensure().await?;
    assert!(why.is_some_and(|why| why.contains("dropped")), "it says why");
    assert_eq!(side.ensure().await?, None, "the slot is there");
    grown(300).await?;
    workload.stop();
    let ledger = workload.finish().await?;

    let (listed, streamed) = (side.listed(97).await?, side.streamed(side.slot()).await?);
    let total = usize::try_from(side.pending().await?.total)?;
    let (lists, streams): (BTreeSet<_>, BTreeSet<_>) =
        (ids(&listed).into_iter().collect(), streamed.iter().map(id).collect());
    let committed: BTreeSet<_> = ledger.committed.keys().map(ToString::to_string).collect();
    println!("{} committed: {} listed, {} streamed", committed.len(), lists.len(), streams.len());
    assert!(lists.len() >= 600 && streams.len() >= 300, "{} and {}", lists.len(), streams.len());
    assert_eq!((listed.len(), lists.len()), (total, total), "each on the list once");
    assert_eq!(lists.intersection(&streams).count(), 0, "in the list and in the stream");
    assert_eq!(lists.union(&streams).cloned().collect::<BTreeSet<_>>(), committed, "missed");

    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for row in listed.iter().map(|(_, row)| row).chain(&streamed) {
        let payload: Value = serde_json::from_str(&text(row, "payload").context("no payload")?)?;
        let (aggregate, n) =
            (payload["aggregate"].to_string(), payload["n"].as_i64().context("n")?);
        let before = last.insert(aggregate.clone(), n).unwrap_or(-1);
        assert!(n > before, "{aggregate}: {n} after {before}");
    }
    Ok(())
}

#[tokio::test]
async fn a_row_read_from_the_table_is_the_row_of_the_stream() -> Result<()> {
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 gone int, payload jsonb, relayed_at timestamptz, occurred_at timestamptz DEFAULT now(),
                 n int, b boolean, x bytea, a inet, c char(5), i interval, f float8, r real, d date,
                 t timestamp, m numeric(9, 3), l text[], k int GENERATED ALWAYS AS (1) STORED);
             ALTER TABLE outbox_messages DROP COLUMN gone",
        )
        .await?;
    setting.init().await?;
    let side = Side::of(&setting, &[]).await?;
    let settings =
        "SET bytea_output = escape; SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Kolkata';
        SET extra_float_digits = -5; SET intervalstyle = postgres_verbose";
    side.client.batch_execute(settings).await?;
    let insert = "INSERT INTO outbox_messages (payload, n, b, x, a, c, i, f, r, d, t, m, l) VALUES
        ('{\"a\": \"é\\n\"}', 1, true, '\\x00ff5c', '10.0.0.1', 'ab', '1 day 2 h', 0.1::float8 / 3, 1e-7,
         '2024-02-03', '2024-02-03 04:05:06.789', 1.5, '{a,NULL,\"b c\"}'), (NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    setting.sql(insert).await?;
    // A second slot has what the first one loses, in the relay's own settings.
    let stream = Side::of(&setting, &[]).await?;
    let settings = "SET bytea_output = hex; SET datestyle = ISO; SET timezone = 'UTC';
        SET extra_float_digits = 1; SET intervalstyle = iso_8601";
    stream.client.batch_execute(settings).await?;
    let streamed = stream.streamed(side.slot()).await?;
    side.drop_slot().await?;
    side.ensure().await?;
    let listed = side.listed(1).await?;
    let both = |rows: Vec<StoredRow>| -> Vec<(Tuple, Vec<pgoutput::Column>)> {
        rows.into_iter().map(|row| (row.tuple, row.columns.to_vec())).collect()
    };
    let listed_time = listed[0].1.commit_time;
    assert_eq!(both(listed.into_iter().map(|(_, row)| row).collect()), both(streamed));
    let now: i64 = setting
        .ask("SELECT (extract(epoch FROM now() - '2000-01-01 00:00:00+00') * 1000000)::bigint")
        .await?;
    assert!((now - 60_000_000..=now).contains(&listed_time), "{listed_time} at {now}");
    Ok(())
}

#[tokio::test]
async fn what_waits_depends_on_the_mark() -> Result<()> {
    for mode in ["update", "side_table", "delete"] {
        let setting = Setting::bare().await?.set("audit.mode", mode);
        setting.init().await?;
        let side = Side::of(&setting, &[("audit.mode", mode)]).await?;
        insert(&side.client, 1..=6).await?;
        setting.put_aside(3, "discarded").await?;
        let mark = |number: u32| match mode {
            "update" => format!(
                "UPDATE outbox_messages SET relayed_at = now() WHERE id = '{}'",
                uuid(number)
            ),
            "side_table" => format!(
                "INSERT INTO pgoutbox.relayed (outbox, id) SELECT 'outbox_messages'::regclass, '{}'",
                uuid(number)
            ),
            _ => format!("DELETE FROM outbox_messages WHERE id = '{}'", uuid(number)),
        };
        setting.sql(&mark(1)).await?;
        side.drop_slot().await?;
        side.ensure().await?;
        let all: Vec<_> = [2, 4, 5, 6].map(uuid).into();
        assert_eq!(ids(&side.listed(2).await?), all, "{mode}");
        // Marked after it was listed, by a relay that crashed then.
        setting.sql(&mark(4)).await?;
        let rest = side.listed(3).await?;
        assert_eq!(rest.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 2, 3], "{mode}");
        assert_eq!(ids(&rest), [2, 5, 6].map(uuid), "{mode}");
        catch_up::finish(&side.client, side.slot()).await?;
        assert_eq!(catch_up::pending(&side.client, side.slot()).await?, None);
        assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.catch_up_rows").await?, 0);
        assert_eq!(side.ensure().await?, None);
    }
    Ok(())
}

/// Of a row filter that cannot be worked out for every row, of a table and of partitions.
#[tokio::test]
async fn a_row_that_the_list_raises_for_stops_no_other() -> Result<()> {
    for partitioned in [false, true] {
        let setting = Setting::bare().await?;
        let version: i32 = setting.ask("SELECT current_setting('server_version_num')::int").await?;
        if version < 150_000 {
            // Row filters are from 15 on.
            return Ok(());
        }
        let columns =
            "id uuid, aggregate_type text, aggregate_id text, event_type text, payload jsonb,
            occurred_at timestamptz DEFAULT now(), relayed_at timestamptz";
        let table = match partitioned {
            false => format!("CREATE TABLE outbox_messages ({columns}, PRIMARY KEY (id))"),
            true => format!(
                "CREATE TABLE outbox_messages ({columns}, PRIMARY KEY (id, aggregate_type)) PARTITION BY LIST (aggregate_type);
                 CREATE TABLE part_a PARTITION OF outbox_messages FOR VALUES IN ('a');
                 CREATE TABLE part_b PARTITION OF outbox_messages DEFAULT"
            ),
        };
        setting.sql(&table).await?;
        setting
            .sql(
                "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (100 / (payload -> 'n')::int > 1)
                 WITH (publish = 'insert', publish_via_partition_root = true)",
            )
            .await?;
        setting.init().await?;
        let side = Side::of(&setting, &[]).await?;
        side.drop_slot().await?;
        // Of these 13 divides by zero, 900 has no number, and 70 is kept back.
        let rows = r#"INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, event_type, payload)
            SELECT md5(n::text)::uuid, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, n, 'placed',
                   CASE n WHEN 13 THEN '{"n": 0}' WHEN 900 THEN '{"n": "many"}' WHEN 70 THEN '{"n": 70}' ELSE '{"n": 7}' END::jsonb
              FROM generate_series(1, 1000) AS n"#;
        setting.sql(rows).await?;
        side.ensure().await?;
        let listed = side.listed(300).await?;
        let came = listed.iter().filter_map(|(_, row)| text(row, "aggregate_id"));
        let came: BTreeSet<u32> = came.filter_map(|n| n.parse().ok()).collect();
        let wanted = (1..=1000).filter(|n| ![13, 70, 900].contains(n)).collect();
        assert_eq!(came, wanted, "partitioned: {partitioned}");
        assert_eq!(listed.len(), 997);
    }
    Ok(())
}

/// It is named, and stays without a mark; where every row raises it is no fault of theirs.
#[tokio::test]
async fn a_row_that_cannot_be_listed_is_named() -> Result<()> {
    let setting = Setting::bare().await?;
    if setting.ask::<i32>("SELECT current_setting('server_version_num')::int").await? < 150_000 {
        return Ok(());
    }
    let table = "CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload jsonb, relayed_at timestamptz)";
    setting.sql(table).await?;
    let publication = "CREATE PUBLICATION pgoutbox FOR TABLE outbox_messages WHERE (payload::int > 0) WITH (publish = 'insert')";
    setting.sql(publication).await?;
    setting.init().await?;
    let consumer = setting.bound("here").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let rows = r#"INSERT INTO outbox_messages VALUES ('one', 'here', '1'), ('two', 'here', '"x"'), ('three', 'here', '3'), ('four', 'here', '-4')"#;
    setting.sql(rows).await?;
    let relay = setting.run()?;
    let came = crate::bare::arrived(&consumer, 2).await.with_context(|| relay.log())?;
    assert_eq!(came.len(), 2);
    let said = relay.wait_for_log("a row that waits cannot be read", PATIENCE).await?;
    for part in [
        "event_id=\"two\"",
        "outbox_messages",
        "ctid = '(0,2)'",
        "--id two --mark",
        "cannot cast jsonb string",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let marks = "SELECT string_agg(id, ' ' ORDER BY id) = 'one three' FROM outbox_messages WHERE relayed_at IS NOT NULL";
    setting.until("the others to be marked", marks).await?;
    relay.drain(PATIENCE).await?;
    setting.sql("TRUNCATE outbox_messages").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let rows =
        "INSERT INTO outbox_messages SELECT n, 'here', '[]' FROM generate_series(1, 200) AS n";
    setting.sql(rows).await?;
    let relay = setting.run()?;
    let said = relay.wait_for_log("in the row filter of the publication", PATIENCE).await?;
    assert!(said.contains("ALTER PUBLICATION"), "{said}");
    assert!(!relay.log().contains("a row that waits cannot be read"), "{}", relay.log());
    Ok(())
}

#[tokio::test]
async fn a_slot_whose_list_was_never_written_is_made_again() -> Result<()> {
    let setting = Setting::shared().await?;
    let side = Side::of(&setting, &[]).await?;
    insert(&side.client, 1..=2).await?;
    side.drop_slot().await?;
    // It waits for a transaction that is writing, and is killed meanwhile.
    let writer = setting.client().await?;
    writer.batch_execute("BEGIN").await?;
    insert(&writer, [3]).await?;
    let is_there = format!(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}')",
        side.slot()
    );
    let killed = Side::of(&setting, &[]).await?;
    tokio::select! {
        outcome = killed.ensure() => anyhow::bail!("it did not wait: {outcome:?}"),
        seen = setting.until("the slot to be on its way", &is_there) => seen?,
    }
    drop(killed);
    let fault = catch_up::pending(&side.client, side.slot()).await.unwrap_err();
    assert!(fault.class == Class::Transient && fault.what.contains("not listed yet"), "{fault}");
    writer.batch_execute("COMMIT").await?;
    // The server goes on alone, and may leave a slot that nobody asked for any more.
    let is_over = format!(
        "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}' AND active)",
        side.slot()
    );
    setting.until("the end of the walsender", &is_over).await?;
    let orphan = "SELECT pg_create_logical_replication_slot($1::text::name, 'pgoutput')
        WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1::text::name)";
    side.client.execute(orphan, &[&side.slot()]).await?;
    insert(&side.client, [4]).await?;
    assert!(side.ensure().await?.is_some());
    assert_eq!(ids(&side.listed(10).await?), [1, 2, 3, 4].map(uuid));
    assert_eq!(side.streamed(side.slot()).await?.len(), 0);
    // What is listed is not listed again.
    assert_eq!(side.ensure().await?, None);
    // Unless somebody made the slot again meanwhile: then rows may be missing in between.
    side.drop_slot().await?;
    insert(&side.client, [5]).await?;
    setting
        .sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", side.slot()))
        .await?;
    assert!(side.ensure().await?.is_some_and(|why| why.contains("recreated")));
    assert_eq!(ids(&side.listed(10).await?), [1, 2, 3, 4, 5].map(uuid));
    Ok(())
}

#[tokio::test]
async fn two_relays_do_not_make_it_at_once() -> Result<()> {
    let setting = Setting::shared().await?;
    let (one, other) = (Side::of(&setting, &[]).await?, Side::of(&setting, &[]).await?);
    insert(&one.client, 1..=3).await?;
    one.drop_slot().await?;
    let (first, second) = tokio::join!(one.ensure(), other.ensure());
    let outcomes = [&first, &second];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let fault = first.err().or(second.err()).context("none failed")?;
    assert_eq!(fault.class, Class::Transient, "{fault}");
    assert_eq!(other.ensure().await?, None, "the other goes on once it is made");
    assert_eq!(ids(&one.listed(10).await?), [1, 2, 3].map(uuid));
    Ok(())
}

#[tokio::test]
async fn a_lost_slot_is_made_anew_or_halts() -> Result<()> {
    let options = postgres::Options {
        conf: vec![
            "max_slot_wal_keep_size = 1MB".into(),
            "min_wal_size = 32MB".into(),
            "max_wal_size = 32MB".into(),
        ],
        ..Default::default()
    };
    let own = Postgres::start(options).await?;
    let setting = of(&own).await?;
    let side = Side::of(&setting, &[]).await?;
    insert(&side.client, 1..=3).await?;
    let is_lost = format!(
        "SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{}'",
        side.slot()
    );
    wait_until("the slot to be lost", PATIENCE, async || {
        side.client.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
        side.client.batch_execute("CREATE TABLE IF NOT EXISTS filler (t text); INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 3000)").await?;
        Ok(side.client.query_one(&is_lost, &[]).await?.try_get(0)?)
    })
    .await?;

    let halting = Side::of(&setting, &[("postgres.on_slot_loss", "halt")]).await?;
    let fault = halting.ensure().await.unwrap_err();
    assert!(fault.class == Class::Halt && fault.what.contains("lost"), "{fault}");
    let told =
        setting.clone().set("postgres.on_slot_loss", "halt").program.output(&["check"]).await?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for part in ["pg_drop_replication_slot", "pgoutbox init", "on_slot_loss = \"catch_up\""] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    let told = setting.program.succeed(&["check"]).await?;
    assert!(
        told.contains("warning slot") && told.contains("publishes the rows that wait"),
        "{told}"
    );

    let why = side.ensure().await?.context("nothing was done")?;
    assert!(why.contains("lost"), "{why}");
    assert_eq!(ids(&side.listed(2).await?), [1, 2, 3].map(uuid));
    let status = setting.status().await?;
    assert_eq!(status["slot"]["wal_status"], "reserved", "{status}");
    let shown = &status["catch_up"];
    assert_eq!((&shown["done"], &shown["total"]), (&0.into(), &3.into()), "{status}");
    assert!(shown["why"].as_str().is_some_and(|why| why.contains("lost")), "{status}");
    // As the relay records it.
    let lsn = side.pending().await?.commit_lsn();
    setting.sql(&format!("UPDATE pgoutbox.progress SET commit_lsn = '{lsn}', settled = 2")).await?;
    assert_eq!(setting.status().await?["catch_up"]["done"], 2);
    // No relay runs, and a row waits for it.
    let told = setting.program.output(&["status"]).await?;
    assert_eq!(told.status.code(), Some(1));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("catch-up  2 of 3 rows are published"), "{told}");
    Ok(())
}

async fn of(own: &Postgres) -> Result<Setting> {
    let rabbitmq = shared::rabbitmq().await?;
    let (database, vhost) = (own.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (own.url(&database), rabbitmq.url(&vhost));
    Setting::of(database, vhost, database_url, amqp_url).await
}

#[tokio::test]
async fn the_order_is_that_of_the_commits_where_the_server_keeps_it() -> Result<()> {
    for (tracks, order) in [("on", [3, 1, 2, 5, 4]), ("off", [4, 5, 2, 1, 3])] {
        let conf = vec![format!("track_commit_timestamp = {tracks}")];
        let own = Postgres::start(postgres::Options { conf, ..Default::default() }).await?;
        let setting = of(&own).await?;
        let side = Side::of(&setting, &[]).await?;
        // By occurred_at 4, 5, 2, 1, 3; by commit 3, 1 and 2 together, 5, 4.
        let row = |number: u32, at: u32| {
            format!(
                "INSERT INTO outbox_messages (id, payload, occurred_at) VALUES ('{}', '{{}}', '2024-01-01 00:00:{at:02}Z');",
                uuid(number)
            )
        };
        for transaction in [
            row(3, 9),
            format!("BEGIN; {} SAVEPOINT s; {} COMMIT;", row(1, 8), row(2, 7)),
            row(5, 6),
            row(4, 5),
        ] {
            side.client.batch_execute(&transaction).await?;
        }
        side.drop_slot().await?;
        side.ensure().await?;
        assert_eq!(
            ids(&side.listed(10).await?),
            order.map(uuid),
            "track_commit_timestamp = {tracks}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_chunk_is_bounded_in_bytes_and_tables_come_together() -> Result<()> {
    let setting = Setting::bare().await?;
    let (one, other) = ("outbox_messages", "other_outbox");
    let setting = setting.set("tables.0.name", one).set("tables.1.name", other);
    setting.init().await?;
    let side = Side::of(&setting, &[("tables.0.name", one), ("tables.1.name", other)]).await?;
    // 3 MB that do not compress in each: 8 MiB hold the third begun.
    for (number, table) in [one, other, one, other, one, other, one].into_iter().enumerate() {
        let insert = format!("INSERT INTO {table} (id, payload) SELECT '{}',
            jsonb_build_object('x', (SELECT string_agg(md5(g::text || random()), '') FROM generate_series(1, 94000) g))",
            uuid(u32::try_from(number)?));
        side.client.batch_execute(&insert).await?;
    }
    side.drop_slot().await?;
    side.ensure().await?;
    let catch_up = side.pending().await?;
    let chunk =
        catch_up::fetch(&side.client, &side.config, &side.outboxes, &catch_up, 0, 500).await?;
    assert_eq!((chunk.rows.len(), chunk.next), (5, 5), "three of the first, two of the other");
    let listed = side.listed(500).await?;
    assert_eq!(ids(&listed), (0..7).map(uuid).collect::<Vec<_>>());
    assert_eq!(listed.iter().map(|(_, row)| row.table).collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0]);
    Ok(())
}

#[tokio::test]
async fn init_lists_what_waits_and_a_name_that_never_was_is_no_loss() -> Result<()> {
    let setting = Setting::shared().await?;
    setting.program.succeed(&["uninstall", "--yes"]).await?;
    insert(&setting.client().await?, 1..=3).await?;
    let told = setting.init().await?;
    assert!(told.contains("3 rows that waited before are listed"), "{told}");
    let side = Side::of(&setting, &[]).await?;
    assert_eq!(ids(&side.listed(10).await?), [1, 2, 3].map(uuid));
    let status = setting.program.output(&["status"]).await?;
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "events wait, and no relay runs: {told}");
    assert!(told.contains("catch-up  0 of 3"), "{told}");

    let strange = Side::of(&setting, &[]).await?;
    let mut config = strange.config.clone();
    config.postgres.slot.push('x');
    let fault =
        catch_up::ensure_slot(&config, &strange.client, &strange.outboxes).await.unwrap_err();
    assert!(fault.class == Class::Definite && fault.hint.contains("pgoutbox init"), "{fault}");

    // Without marks there is no record of that.
    setting.program.succeed(&["uninstall", "--yes"]).await?;
    let setting = setting.set("audit.mode", "none");
    let told = setting.init().await?;
    assert!(told.contains("rows that are there already are not relayed"), "{told}");
    let side = Side::of(&setting, &[("audit.mode", "none")]).await?;
    let prepared =
        catch_up::prepare(&side.config, &side.client, &side.outboxes, "", Patience::RELAY);
    let fault = prepared.await.unwrap_err();
    assert!(
        fault.class == Class::Halt && fault.what.contains("no record of what was delivered"),
        "{fault}"
    );
    Ok(())
}

#[tokio::test]
async fn whoever_keeps_a_slot_from_being_made_is_named() -> Result<()> {
    let setting = Setting::bare().await?;
    let writer = setting.client().await?;
    writer.batch_execute("CREATE TABLE t (i int); BEGIN; INSERT INTO t VALUES (1)").await?;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
    let output = setting.program.output(&["init", "--slot-timeout", "1s"]).await?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("pid {pid}")) && told.contains("within 1s"), "{told}");
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()";
    assert_eq!(setting.ask::<i64>(slots).await?, 0, "none is left behind");
    writer.batch_execute("COMMIT").await?;
    setting.init().await?;
    Ok(())
}

#[tokio::test]
async fn a_server_promoted_without_the_slot_is_caught_up_with() -> Result<()> {
    let (own, setting) = Setting::own_postgres().await?;
    let client = setting.client().await?;
    insert(&client, 1..=3).await?;
    let Ok(standby) = own.standby(&[]).await else {
        // Without pg_basebackup beside this Postgres there is no standby.
        assert_ne!(own.version(), 15);
        return Ok(());
    };
    insert(&client, [4]).await?;
    let url = standby.url(&setting.database);
    wait_until("the standby to have it", PATIENCE, async || {
        let sql = "SELECT count(*) = 4 FROM outbox_messages";
        Ok(harness::postgres::connect(&url).await?.query_one(sql, &[]).await?.try_get(0)?)
    })
    .await?;
    standby.promote().await?;
    let setting = Setting { database_url: url, ..setting };
    let side = Side::of(&setting, &[]).await?;
    assert!(side.ensure().await?.is_some_and(|why| why.contains("promoted")));
    insert(&side.client, [5]).await?;
    assert_eq!(ids(&side.listed(10).await?), (1..=4).map(uuid).collect::<Vec<_>>());
    assert_eq!(side.streamed(side.slot()).await?.iter().map(id).collect::<Vec<_>>(), [uuid(5)]);
    Ok(())
}

#[tokio::test]
async fn a_failover_slot_where_the_server_has_them() -> Result<()> {
    let setting = Setting::bare().await?.set("postgres.failover", "true");
    if shared::postgres().await?.version() < 17 {
        let output = setting.program.output(&["init"]).await?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("no failover slots") && told.contains("failover = false"), "{told}");
        return Ok(());
    }
    setting.init().await?;
    let is_failover = format!(
        "SELECT failover FROM pg_replication_slots WHERE slot_name = '{}'",
        setting.database
    );
    assert!(setting.ask::<bool>(&is_failover).await?);
    Ok(())
}
