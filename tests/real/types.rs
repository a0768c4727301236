//! Payloads and times of every type, by each way that an event comes: the stream, the parking, a
//! catch-up (found where it stood, or kept whole as others have its id) and a replay of each. What
//! consumers get is the same, and right.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context, Result};
use harness::consumer::{Consumer, Delivery};

use crate::bare::{arrived, id};
use crate::setting::{PATIENCE, Setting};

/// A table; for payloads with the usual time, for times with the usual payload.
struct Case {
    name: &'static str,
    /// What its types need.
    before: &'static str,
    payload: &'static str,
    time: &'static str,
    rows: Vec<Row>,
}

/// One row, as SQL writes it, and what its message is to have.
struct Row {
    payload: &'static str,
    body: &'static [u8],
    time: &'static str,
    /// In seconds since 1970; `None`: when the test ran, as the row says none that AMQP or a consumer's
    /// clock could tell.
    seconds: Option<u64>,
}

const NOON: &str = "'2026-01-02 12:00:00+00'";
const NOON_SECONDS: u64 = 1_767_355_200;

fn payload(
    name: &'static str,
    before: &'static str,
    payload: &'static str,
    rows: &[(&'static str, &'static [u8])],
) -> Case {
    let row = |(payload, body): &(&'static str, &'static [u8])| Row {
        payload,
        body,
        time: NOON,
        seconds: Some(NOON_SECONDS),
    };
    Case { name, before, payload, time: "timestamptz", rows: rows.iter().map(row).collect() }
}

fn time(
    name: &'static str,
    before: &'static str,
    time: &'static str,
    rows: &[(&'static str, Option<u64>)],
) -> Case {
    let row = |(time, seconds): &(&'static str, Option<u64>)| Row {
        payload: "'1'",
        body: b"1",
        time,
        seconds: *seconds,
    };
    Case { name, before, payload: "jsonb", time, rows: rows.iter().map(row).collect() }
}

fn payloads() -> Vec<Case> {
    const WORDS: [(&str, &[u8]); 3] = [
        (
            "E' \\\\x00 \\t\"q\" \u{fc}\u{20ac}\u{1f422}\\n '",
            " \\x00 \t\"q\" \u{fc}\u{20ac}\u{1f422}\n ".as_bytes(),
        ),
        ("''", b""),
        ("NULL", b""),
    ];
    const JSON: [(&str, &[u8]); 4] = [
        (
            "'{ \"b\" :1e400,  \"a\":1.50, \"b\":\"\\u00fc\" }'",
            b"{ \"b\" :1e400,  \"a\":1.50, \"b\":\"\\u00fc\" }",
        ),
        ("'\"a string\"'", b"\"a string\""),
        ("'null'", b"null"),
        ("'\n[1]\n'", b"\n[1]\n"),
    ];
    const JSONB: [(&str, &[u8]); 4] = [
        (
            "'{\"b\": 1.500, \"a\": 123456789012345678901234567890.5, \"c\": \"\u{fc}\\\\\"}'",
            "{\"a\": 123456789012345678901234567890.5, \"b\": 1.500, \"c\": \"\u{fc}\\\\\"}"
                .as_bytes(),
        ),
        ("'\"a string\"'", b"\"a string\""),
        ("'null'", b"null"),
        ("NULL", b""),
    ];
    const BYTES: [(&str, &[u8]); 3] =
        [("'\\x0068ff5c7827'", b"\x00h\xff\\x'"), ("''", b""), ("'\\x5c78303068'", b"\\x00h")];
    const XML: [(&str, &[u8]); 2] = [
        ("'<a b=\"&amp;\">\u{fc} </a>'", "<a b=\"&amp;\">\u{fc} </a>".as_bytes()),
        ("'text &lt;'", b"text &lt;"),
    ];
    const HSTORE: [(&str, &[u8]); 2] = [
        ("'\"a b\"=>NULL,  c=>1, d=>\"t\\\"\"'", b"\"c\"=>\"1\", \"d\"=>\"t\\\"\", \"a b\"=>NULL"),
        ("''", b""),
    ];
    vec![
        payload("text", "", "text", &WORDS),
        payload("varchar", "", "varchar(40)", &WORDS),
        payload("char", "", "char(8)", &[("'n  '", b"n       ")]),
        payload(
            "citext",
            "CREATE SCHEMA \"Odd.s\"; CREATE EXTENSION citext SCHEMA \"Odd.s\"",
            "\"Odd.s\".citext",
            &WORDS,
        ),
        payload("json", "", "json", &JSON),
        payload("jsonb", "", "jsonb", &JSONB),
        payload("bytea", "", "bytea", &BYTES),
        payload("xml", "", "xml", &XML),
        payload("hstore", "CREATE EXTENSION hstore SCHEMA \"Odd.s\"", "\"Odd.s\".hstore", &HSTORE),
        payload(
            "composite",
            "CREATE TYPE pair AS (a int, b text)",
            "pair",
            &[("ROW(1, 'b \"c')", b"(1,\"b \"\"c\")")],
        ),
        payload(
            "range",
            "CREATE TYPE float_range AS RANGE (subtype = float8)",
            "float_range",
            &[("'[0.1,3e300]'", b"[0.1,3e+300]"), ("'empty'", b"empty")],
        ),
        payload(
            "enum",
            "CREATE TYPE \"Mood\" AS ENUM ('so so')",
            "\"Mood\"",
            &[("'so so'", b"so so")],
        ),
        payload(
            "domain_text",
            "CREATE DOMAIN words AS text; CREATE DOMAIN more_words AS words",
            "more_words",
            &WORDS,
        ),
        payload(
            "domain_json",
            "CREATE DOMAIN document AS json CHECK (VALUE IS NOT NULL); CREATE DOMAIN inner_document AS document",
            "inner_document",
            &JSON,
        ),
        payload(
            "domain_jsonb",
            "CREATE DOMAIN packed AS jsonb; CREATE DOMAIN more_packed AS packed",
            "more_packed",
            &JSONB,
        ),
        payload(
            "domain_bytea",
            "CREATE DOMAIN bytes AS bytea; CREATE DOMAIN more_bytes AS bytes",
            "more_bytes",
            &BYTES,
        ),
        payload(
            "domain_xml",
            "CREATE DOMAIN page AS xml; CREATE DOMAIN more_page AS page",
            "more_page",
            &XML,
        ),
        payload(
            "domain_hstore",
            "CREATE DOMAIN pairs AS \"Odd.s\".hstore; CREATE DOMAIN more_pairs AS pairs",
            "more_pairs",
            &HSTORE,
        ),
        payload("domain_citext", "CREATE DOMAIN label AS \"Odd.s\".citext", "label", &WORDS),
        payload("domain_varchar", "CREATE DOMAIN short AS varchar(60)", "short", &WORDS),
        payload(
            "domain_range",
            "CREATE DOMAIN span AS float_range",
            "span",
            &[("'[1,3]'", b"[1,3]")],
        ),
        payload(
            "domain_enum",
            "CREATE DOMAIN feeling AS \"Mood\"",
            "feeling",
            &[("'so so'", b"so so")],
        ),
    ]
}

fn times() -> Vec<Case> {
    const ZONED: [(&str, Option<u64>); 10] = [
        ("'2026-01-02 12:00:00.999999+00'", Some(NOON_SECONDS)),
        ("'2026-01-02 17:45:00+05:45'", Some(NOON_SECONDS)),
        ("'1970-01-01 00:00:00+00'", Some(0)),
        ("'9999-12-30 00:00:00+00'", Some(253_402_128_000)),
        ("'1969-12-31 23:59:59+00'", None),
        ("'0044-03-15 12:00:00+00 BC'", None),
        ("'294276-12-31 23:59:59+00'", None),
        ("'infinity'", None),
        ("'-infinity'", None),
        ("NULL", None),
    ];
    const BARE: [(&str, Option<u64>); 9] = [
        ("'2026-01-02 12:00:00.5'", Some(NOON_SECONDS)),
        ("'1970-01-01 00:00:00'", Some(0)),
        ("'9999-12-30 00:00:00'", Some(253_402_128_000)),
        ("'1969-12-31 23:59:59'", None),
        ("'0044-03-15 12:00:00 BC'", None),
        ("'294276-12-31 23:59:59'", None),
        ("'infinity'", None),
        ("'-infinity'", None),
        ("NULL", None),
    ];
    const NUMBERS: [(&str, Option<u64>); 10] = [
        ("1767355200", Some(NOON_SECONDS)),
        ("1767355200999", Some(NOON_SECONDS)),
        ("1767355200999999", Some(NOON_SECONDS)),
        ("1767355200999999999", Some(NOON_SECONDS)),
        ("0", Some(0)),
        ("-1", None),
        ("-1767355200999", None),
        ("9223372036854775807", Some(9_223_372_036)),
        ("-9223372036854775808", None),
        ("NULL", None),
    ];
    vec![
        time("timestamptz", "", "timestamptz", &ZONED),
        time(
            "timestamptz_0",
            "",
            "timestamptz(0)",
            &[("'2026-01-02 12:00:00.4+00'", Some(NOON_SECONDS)), ("'infinity'", None)],
        ),
        time("timestamp", "", "timestamp", &BARE),
        time("bigint", "", "bigint", &NUMBERS),
        time(
            "domain_timestamptz",
            "CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN more_moment AS moment",
            "more_moment",
            &ZONED,
        ),
        time(
            "domain_timestamp",
            "CREATE DOMAIN bare_moment AS timestamp; CREATE DOMAIN more_bare AS bare_moment",
            "more_bare",
            &BARE,
        ),
        time(
            "domain_bigint",
            "CREATE DOMAIN epoch AS bigint; CREATE DOMAIN more_epoch AS epoch",
            "more_epoch",
            &NUMBERS,
        ),
    ]
}

/// The ways; those that are listed twice have one id.
const WAYS: [(&str, &str, usize); 4] =
    [("streamed", "here", 1), ("parked", "nowhere", 1), ("listed", "here", 1), ("twin", "here", 2)];

struct World {
    cases: Vec<Case>,
    setting: Setting,
    consumer: Consumer,
    began: SystemTime,
}

impl World {
    async fn new() -> Result<Self> {
        let cases: Vec<Case> = payloads().into_iter().chain(times()).collect();
        let mut setting = Setting::bare()
            .await?
            .set("parking.limit", "100000")
            .set("parking.backoff_min", "1h")
            .set("parking.backoff_max", "2h");
        for (number, case) in cases.iter().enumerate() {
            let table = format!("t_{}_{}", number, case.name);
            setting = setting.set(&format!("tables.{number}.name"), &table);
            let ddl = format!(
                "{}; CREATE TABLE {table} (id text NOT NULL, topic text, payload {}, occurred_at {}, relayed_at timestamptz)",
                case.before, case.payload, case.time
            );
            setting.sql(&ddl).await.with_context(|| case.name)?;
        }
        setting.init().await?;
        let consumer = setting.bound("here").await?;
        Ok(Self { cases, setting, consumer, began: SystemTime::now() })
    }

    /// One row of each, by this way.
    async fn insert(&self, way: &str) -> Result<usize> {
        let client = self.setting.client().await?;
        let (_, topic, times) = WAYS.iter().find(|(name, ..)| *name == way).context("a way")?;
        let mut count = 0;
        for (number, case) in self.cases.iter().enumerate() {
            for (at, row) in case.rows.iter().enumerate() {
                let (payload, time) = (row.payload, row.time);
                let one = format!("('{number} {way} {at}', '{topic}', {payload}, {time})");
                let all = vec![one; *times].join(", ");
                let sql = format!(
                    "INSERT INTO t_{number}_{} (id, topic, payload, occurred_at) VALUES {all}",
                    case.name
                );
                client.batch_execute(&sql).await.with_context(|| sql.clone())?;
                count += times;
            }
        }
        Ok(count)
    }

    /// What is wrong with what came.
    fn judge(&self, came: &[Delivery]) -> Result<Vec<String>> {
        let seconds = |at: SystemTime| {
            Ok::<_, anyhow::Error>(at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
        };
        let (began, now) = (seconds(self.began)?, seconds(SystemTime::now())?);
        let mut of_id = BTreeMap::<String, Vec<&Delivery>>::new();
        for delivery in came {
            of_id.entry(id(delivery)).or_default().push(delivery);
        }
        let mut wrong = Vec::new();
        for (number, case) in self.cases.iter().enumerate() {
            for (way, _, times) in WAYS {
                for (at, row) in case.rows.iter().enumerate() {
                    let id = format!("{number} {way} {at}");
                    let came = of_id.remove(&id).unwrap_or_default();
                    let what = format!("{} {way} {} {}", case.name, row.payload, row.time);
                    let replayed = came.iter().filter(|d| d.header("pgoutbox-replayed").is_some());
                    let replayed = replayed.count();
                    if (came.len() - replayed, replayed) != (times, times) {
                        let first = came.len() - replayed;
                        wrong.push(format!("{what}: came {first} times, {replayed} replayed"));
                    }
                    for delivery in came {
                        let said = delivery.properties.timestamp().unwrap_or(0);
                        let is_right = match row.seconds {
                            Some(seconds) => said == seconds,
                            None => (began - 1..=now + 1).contains(&said),
                        };
                        if !is_right {
                            wrong.push(format!("{what}: timestamp {said}"));
                        }
                        if delivery.body != row.body {
                            let body = String::from_utf8_lossy(&delivery.body);
                            wrong.push(format!("{what}: body {body:?}"));
                        }
                    }
                }
            }
        }
        wrong.extend(of_id.keys().map(|id| format!("{id} came, and was never written")));
        Ok(wrong)
    }
}

#[tokio::test]
async fn a_body_and_a_time_are_the_same_whichever_way_they_come() -> Result<()> {
    let world = World::new().await?;
    let (setting, consumer) = (&world.setting, &world.consumer);
    let relay = setting.run()?;
    let mut count = world.insert("streamed").await?;
    arrived(consumer, count).await.with_context(|| relay.log())?;
    let parked = world.insert("parked").await?;
    let sql = format!("SELECT count(*) = {parked} FROM pgoutbox.parked");
    setting.until("all to be parked", &sql).await.with_context(|| relay.log())?;
    setting.bind("nowhere").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    count += parked;
    arrived(consumer, count).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    count += world.insert("listed").await? + world.insert("twin").await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let relay = setting.run()?;
    let caught_up = arrived(consumer, count).await;
    relay.drain(PATIENCE).await?;
    let told = setting.program.output(&["replay", "--all", "--rate", "100000"]).await?;
    let replayed = arrived(consumer, 2 * count).await;
    let wrong = world.judge(&consumer.deliveries(<[Delivery]>::to_vec))?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(wrong.is_empty(), "{wrong:#?}\n{told}\n{}", relay.log());
    caught_up.and(replayed)?;
    println!("types: {} tables, {} messages", world.cases.len(), 2 * count);
    Ok(())
}

/// Whatever a number counts, a catch-up goes by it, and those who choose rows by time find them.
#[tokio::test]
async fn numbers_are_times_in_any_unit() -> Result<()> {
    const UNITS: [(&str, i64); 4] =
        [("seconds", 1), ("millis", 1_000), ("micros", 1_000_000), ("nanos", 1_000_000_000)];
    let mut setting = Setting::bare()
        .await?
        .set("audit.hold", "1s")
        .set("audit.give_up", "1s")
        .set("reconcile.age", "1s");
    for (number, (unit, _)) in UNITS.iter().enumerate() {
        setting = setting.set(&format!("tables.{number}.name"), unit);
        let table = format!(
            "CREATE TABLE {unit} (id text PRIMARY KEY, topic text, payload jsonb DEFAULT '1', occurred_at bigint, relayed_at timestamptz)"
        );
        setting.sql(&table).await?;
    }
    setting.init().await?;
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    let consumer = setting.bound("here").await?;
    // By id they would come the other way round.
    for (unit, per_second) in UNITS {
        let at = |n: i64| (1_767_355_200 + n) * per_second;
        let sql = format!(
            "INSERT INTO {unit} (id, topic, occurred_at) VALUES ('{unit} c', 'here', {}), ('{unit} b', 'here', {}), ('{unit} a', 'here', {})",
            at(0),
            at(1),
            at(2)
        );
        setting.sql(&sql).await?;
    }
    let relay = setting.run()?;
    let came = arrived(&consumer, 12).await.with_context(|| relay.log())?;
    let came: Vec<String> = came.iter().map(id).collect();
    for (unit, _) in UNITS {
        let of_unit: Vec<_> = came.iter().filter_map(|id| id.strip_prefix(unit)).collect();
        assert_eq!(of_unit, [" c", " b", " a"], "{unit}: {came:?}");
    }
    for (unit, _) in UNITS {
        let unit = format!("public.{unit}");
        let replay =
            ["replay", "--dry-run", "--table", &unit, "--since", "2026-01-02T12:00:01Z", "--until"];
        for (until, rows) in [("2026-01-02T12:00:02Z", 1), ("2026-01-02T13:00:00Z", 2)] {
            let told = setting.program.succeed(&[&replay[..], &[until]].concat()).await?;
            assert!(told.contains(&format!("{rows} would be sent")), "{unit} {until}: {told}");
        }
    }
    let marks =
        UNITS.map(|(unit, _)| format!("(SELECT count(relayed_at) FROM {unit})")).join(" + ");
    setting.until("all marks", &format!("SELECT {marks} = 12")).await?;
    // Rows whose marks are gone are missed ones: what is old does not wait.
    for (unit, _) in UNITS {
        setting.sql(&format!("UPDATE {unit} SET relayed_at = NULL")).await?;
    }
    setting.is_acknowledged(&relay).await?;
    harness::wait_until("verify to miss them", PATIENCE, async || {
        let told = setting.program.output(&["verify", "--json"]).await?.stdout;
        let told: serde_json::Value = serde_json::from_slice(&told)?;
        let of = |number: usize| told["tables"][number]["unmarked"]["rows"].as_i64();
        anyhow::ensure!((0..4).all(|number| of(number) == Some(3)), "{told}");
        Ok(true)
    })
    .await?;
    relay.drain(PATIENCE).await
}
