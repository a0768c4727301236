//! The commands as an operator uses them: what they do, say and exit with.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use harness::consumer::Consumer;
use harness::relay::{Pgoutbox, Relay};
use harness::{shared, wait_until};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use serde_json::Value;

use crate::bare::{arrived, id};
use crate::setting::{PATIENCE, Setting};

const BINARY: &str = env!("CARGO_BIN_EXE_pgoutbox");

/// What is there of pgoutbox's, in words.
const MADE: &str = "SELECT concat_ws(' ', to_regclass('outbox_messages'), to_regnamespace('pgoutbox'),
    (SELECT pubname FROM pg_publication), (SELECT slot_name FROM pg_replication_slots WHERE database = current_database()))";

fn told(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Commands, and what they end with.
pub trait Commands {
    /// A command that must end with this exit code, and what it said.
    async fn exits(&self, code: i32, args: &[&str]) -> Result<String>;
}

impl Commands for Setting {
    async fn exits(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.program.output(args).await?;
        let told = told(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        Ok(told)
    }
}

#[tokio::test]
async fn init_says_what_it_makes_and_then_that_it_found_it() -> Result<()> {
    let setting = Setting::bare().await?;
    let dry = setting.exits(0, &["init", "--dry-run", "--declare"]).await?;
    for part in [
        "CREATE TABLE",
        "CREATE SCHEMA",
        "CREATE PUBLICATION",
        "pg_create_logical_replication_slot",
        "-- would declare topic exchange outbox",
    ] {
        assert!(dry.contains(part), "no {part} in {dry}");
    }
    assert_eq!(setting.ask::<String>(MADE).await?, "", "a dry run changes nothing");
    let exchange = setting.channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
    let found = exchange
        .exchange_declare("outbox".into(), ExchangeKind::Topic, passive, FieldTable::default())
        .await;
    assert!(found.is_err(), "a dry run declares nothing");
    let things = |verb: &str| {
        let publication = format!("{verb:8}publication pgoutbox");
        let slot = format!("{verb:8}slot {}", setting.database);
        [
            format!("{verb:8}table public.outbox_messages"),
            format!("{verb:8}schema pgoutbox"),
            publication,
            slot,
        ]
    };
    let first = setting.exits(0, &["init", "--declare"]).await?;
    for line in things("made") {
        assert!(first.contains(&line), "no {line:?} in {first}");
    }
    assert!(first.contains("declared topic exchange outbox, durable"), "{first}");
    let state = "SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM (
                     SELECT oid::text || relname || xmin::text AS t FROM pg_class
                      WHERE relname IN ('outbox_messages', 'progress', 'relayed')
                     UNION ALL SELECT oid::text || xmin::text FROM pg_publication
                     UNION ALL SELECT slot_name || restart_lsn::text FROM pg_replication_slots
                      WHERE database = current_database()) AS all_of_it";
    let before: String = setting.ask(state).await?;
    let second = setting.exits(0, &["init", "--declare"]).await?;
    for line in things("found") {
        assert!(second.contains(&line), "no {line:?} in {second}");
    }
    assert!(!second.contains("made"), "{second}");
    assert_eq!(before, setting.ask::<String>(state).await?, "what is there is left alone");
    // Nothing is missing, the function neither, so there is nothing to run.
    let dry = setting.exits(0, &["init", "--dry-run", "--declare"]).await?;
    assert_eq!(dry, "");
    // One of an earlier version is renewed.
    let replace = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgoutbox.enqueue'::regproc), 'topic is empty', 'no topic'); END $$";
    setting.sql(replace).await?;
    let dry = setting.exits(0, &["init", "--dry-run"]).await?;
    assert!(dry.contains("CREATE OR REPLACE FUNCTION pgoutbox.enqueue"), "{dry}");
    let again = setting.exits(0, &["init"]).await?;
    assert!(again.contains("renewed function pgoutbox.enqueue"), "{again}");
    let again = setting.exits(0, &["init"]).await?;
    assert!(again.contains("found   function pgoutbox.enqueue"), "{again}");
    Ok(())
}

#[tokio::test]
async fn init_checks_what_it_finds_and_changes_none_of_it() -> Result<()> {
    // A publication that brings marks back as events.
    let setting = Setting::bare().await?;
    setting.sql("CREATE TABLE other (id int); CREATE PUBLICATION pgoutbox FOR TABLE other").await?;
    let told = setting.exits(1, &["init"]).await?;
    assert!(told.contains("publication \"pgoutbox\""), "{told}");
    assert!(told.contains("hint: ") && told.contains("ALTER PUBLICATION"), "{told}");
    let published: String =
        setting.ask("SELECT string_agg(tablename, ',') FROM pg_publication_tables").await?;
    assert_eq!(published, "other");

    // A table without a column that every row needs.
    let setting = Setting::bare().await?;
    setting.sql("CREATE TABLE outbox_messages (id uuid PRIMARY KEY, payload int)").await?;
    let told = setting.exits(1, &["init"]).await?;
    assert!(told.contains("cannot be read as payload"), "{told}");
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'outbox_messages'::regclass AND attnum > 0";
    assert_eq!(setting.ask::<i64>(columns).await?, 2);

    // A slot of somebody else's.
    let setting = Setting::bare().await?;
    let slot = &setting.database;
    setting.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}')")).await?;
    let told = setting.exits(1, &["init"]).await?;
    assert!(told.contains(slot.as_str()), "{told}");
    let kind: String = setting
        .ask(&format!("SELECT slot_type FROM pg_replication_slots WHERE slot_name = '{slot}'"))
        .await?;
    assert_eq!(kind, "physical");
    setting.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await?;

    // An exchange of another type.
    let setting = Setting::bare().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let channel = setting.channel().await?;
    channel
        .exchange_declare("outbox".into(), ExchangeKind::Fanout, durable, FieldTable::default())
        .await?;
    let told = setting.exits(1, &["init", "--declare"]).await?;
    assert!(told.contains("exchange outbox") && told.contains("other properties"), "{told}");
    Ok(())
}

#[tokio::test]
async fn check_and_status_tell_by_their_exit_code() -> Result<()> {
    let setting = Setting::bare().await?;
    let bare = setting.exits(1, &["check"]).await?;
    assert!(bare.contains("error   ") && bare.contains("hint: pgoutbox init"), "{bare}");
    assert!(setting.exits(1, &["status"]).await?.contains("does not exist"));
    assert!(setting.status().await?["slot"].is_null());
    setting.init().await?;
    let well = setting.exits(0, &["check"]).await?;
    assert!(well.contains("good    RabbitMQ at 127.0.0.1"), "{well}");
    let json: Value = serde_json::from_str(&setting.program.succeed(&["check", "--json"]).await?)?;
    assert_eq!(json["is_well"], true);
    assert!(json["findings"].as_array().is_some_and(|all| all.len() > 3), "{json}");

    let nobody = "amqp://guest:guest@127.0.0.1:1/";
    let told = setting.exits(1, &["check", "--amqp-url", nobody]).await?;
    assert!(told.contains("error   RabbitMQ at 127.0.0.1:1"), "{told}");
    let nowhere = ["check", "--database-url", "postgres://postgres@127.0.0.1:1/x"];
    let told = setting.exits(1, &nowhere).await?;
    assert!(told.contains("error   Postgres at 127.0.0.1:1"), "{told}");
    setting.exits(69, &["status", "--database-url", "postgres://postgres@127.0.0.1:1/x"]).await?;
    for wrong in [
        &["check", "--set", "window.mesages=5"][..],
        &["run", "--set", "window.messages=0"],
        &["nonsense"],
        &["check", "--nonsense"],
    ] {
        setting.exits(64, wrong).await?;
    }
    let told = setting
        .exits(64, &["check", "--set", "window.mesages=5", "--set", "audit.batch=x"])
        .await?;
    assert!(
        told.contains("window.messages") && told.contains("audit.batch"),
        "all at once: {told}"
    );
    setting.exits(0, &["--version"]).await?;
    Ok(())
}

#[tokio::test]
async fn status_shows_the_slot_the_progress_and_the_unmarked() -> Result<()> {
    let setting = Setting::shared().await?;
    let insert = "INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1'), ('t', '2')";
    setting.sql(insert).await?;
    let status = setting.status().await?;
    assert_eq!(status["slot"]["is_active"], false, "{status}");
    assert_eq!(status["unmarked"][0]["rows"], 2, "{status}");
    assert_eq!(status["unmarked"][0]["table"], "public.outbox_messages");
    let is_said = status["progress"]["end_lsn"].is_string();
    assert!(is_said && status["catch_up"].is_null() && status["fault"].is_null(), "{status}");
    // Events wait, and nobody delivers them.
    assert!(status["no_relay_runs"]["waiting_wal_bytes"].as_i64() > Some(0), "{status}");
    let told = setting.exits(1, &["status"]).await?;
    assert!(told.contains("not in use") && told.contains("no relay runs: "), "{told}");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    arrived(&consumer, 2).await?;
    setting.all_marked().await?;
    let running = setting.status().await?;
    let slot = &running["slot"];
    assert_eq!(
        (&slot["is_active"], &slot["name"]),
        (&true.into(), &setting.database.as_str().into())
    );
    for field in ["active_pid", "confirmed_lag_bytes", "retained_wal_bytes"] {
        assert!(slot[field].is_i64(), "{field} in {running}");
    }
    for field in ["confirmed_flush_lsn", "restart_lsn", "wal_status"] {
        assert!(slot[field].is_string(), "{field} in {running}");
    }
    assert!(running["progress"]["end_lsn"].is_string(), "{running}");
    assert_eq!((&running["fault"], &running["unmarked"][0]["rows"]), (&Value::Null, &0.into()));
    assert!(setting.exits(0, &["status"]).await?.contains("in use by pid"));
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn schema_piped_into_psql_makes_all_that_run_needs() -> Result<()> {
    let setting = Setting::bare().await?;
    let sql = setting.program.succeed(&["schema"]).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), sql)?;
    let psql = |file: &std::path::Path| -> Result<String> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &setting.database_url]);
        let output = psql.stdin(std::fs::File::open(file)?).stdout(Stdio::piped()).output();
        let output = output.context("psql comes with Postgres' client programs")?;
        anyhow::ensure!(output.status.success(), "{}", told(&output));
        Ok(told(&output))
    };
    psql(file.path())?;
    // Declares the exchange, which is not Postgres' to have.
    let consumer = setting.bound("#").await?;
    setting.exits(0, &["check"]).await?;
    // What init then finds is as it would have made it.
    let found = setting.init().await?;
    assert!(!found.contains("made "), "{found}");
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    arrived(&consumer, 1).await?;
    relay.drain(PATIENCE).await?;
    std::fs::write(file.path(), setting.program.succeed(&["schema", "--uninstall"]).await?)?;
    psql(file.path())?;
    assert_eq!(setting.ask::<String>(MADE).await?, "outbox_messages");
    Ok(())
}

#[tokio::test]
async fn uninstall_drops_what_init_made_but_never_the_table() -> Result<()> {
    let setting = Setting::shared().await?;
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')").await?;
    let before: String = setting.ask(MADE).await?;
    assert_eq!(before, format!("outbox_messages pgoutbox pgoutbox {}", setting.database));
    let asked = setting.exits(64, &["uninstall"]).await?;
    assert!(asked.contains("--yes"), "nobody is there to say yes: {asked}");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    arrived(&consumer, 1).await?;
    let told = setting.exits(1, &["uninstall", "--yes"]).await?;
    assert!(told.contains("is in use by pid"), "{told}");
    assert_eq!(setting.ask::<String>(MADE).await?, before, "refused, so nothing is dropped");
    relay.drain(PATIENCE).await?;
    wait_until("the slot to be free", PATIENCE, async || {
        Ok(setting.status().await?["slot"]["is_active"] == false)
    })
    .await?;
    let told = setting.exits(0, &["uninstall", "--yes"]).await?;
    assert!(told.contains("kept your tables"), "{told}");
    assert_eq!(setting.ask::<String>(MADE).await?, "outbox_messages");
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM outbox_messages").await?, 1);
    setting.exits(0, &["uninstall", "--yes"]).await?;
    Ok(())
}

/// What goes with the schema and stands nowhere else is said, and what nobody could send again is not dropped by a
/// slip.
#[tokio::test]
async fn uninstall_says_what_is_nowhere_else() -> Result<()> {
    let setting = Setting::shared().await?;
    for (number, state) in [(1, "failed"), (2, "discarded"), (3, "parked")] {
        setting.put_aside(number, state).await?;
    }
    let message = "UPDATE pgoutbox.parked SET outbox = 0, prefix = 'orders' WHERE state = 'parked'";
    setting.sql(message).await?;
    setting
        .sql("INSERT INTO pgoutbox.relayed (outbox, id) VALUES ('outbox_messages', 'x')")
        .await?;
    let told = setting.exits(1, &["uninstall", "--yes"]).await?;
    assert!(told.contains("1 parked events of [[messages]] have no row"), "{told}");
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?, 3, "kept");
    let told = setting.exits(0, &["uninstall", "--yes", "--force"]).await?;
    for part in [
        "1 parked events of [[messages]] go",
        "1 parked events lose their place",
        "1 records of discarded events go",
        "1 marks in pgoutbox.relayed go",
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    Ok(())
}

#[tokio::test]
async fn config_masks_secrets_and_says_where_each_value_comes_from() -> Result<()> {
    let program = Pgoutbox::at(BINARY)
        .env("DATABASE_URL", "postgres://app:hunter2@db.example/app")
        .env("AMQP_URL", "amqps://relay:hunter3@mq.example/v")
        .env("PGOUTBOX_WINDOW__MESSAGES", "77");
    let json = program.succeed(&["config", "--json"]).await?;
    let text = program.succeed(&["config"]).await?;
    for shown in [&json, &text] {
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("db.example") && shown.contains("mq.example"), "{shown}");
    }
    let json: Value = serde_json::from_str(&json)?;
    let window = &json["window.messages"];
    assert_eq!(window["value"], 77, "{window}");
    let origin = window["origin"].as_str().unwrap_or_default();
    assert!(origin.contains("PGOUTBOX_WINDOW__MESSAGES"), "{origin}");
    assert!(
        json["postgres.url"]["value"].as_str().is_some_and(|url| url.contains("***")),
        "{json}"
    );
    Ok(())
}

#[tokio::test]
async fn each_help_has_an_example() -> Result<()> {
    let program = Pgoutbox::at(BINARY);
    let commands = ["init", "check", "run", "status", "schema", "config", "uninstall"];
    let overview = program.succeed(&["--help"]).await?;
    for command in commands {
        assert!(overview.contains(&format!("  {command} ")), "{command} in {overview}");
        let help = program.succeed(&[command, "--help"]).await?;
        let example = help.split("Example").nth(1).context(help.clone())?;
        assert!(example.contains(&format!("pgoutbox {command}")), "{help}");
    }
    assert!(overview.contains("Exit codes:") && overview.contains("Example:"), "{overview}");
    Ok(())
}

#[tokio::test]
async fn enqueue_returns_the_id_and_refuses_nonsense() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let client = setting.client().await?;
    let returned: String = setting
        .ask(
            "SELECT pgoutbox.enqueue('orders.paid', '{\"order\": 7}', aggregate_type => 'order',
                  aggregate_id => '7', event_type => 'paid', headers => '{\"k\": 1}')::text",
        )
        .await?;
    let chosen = "00000000-0000-0000-0000-000000000042";
    let sql =
        format!("SELECT pgoutbox.enqueue('t', '1', id => '{chosen}', allow_scalar => true)::text");
    assert_eq!(setting.ask::<String>(&sql).await?, chosen);
    let came = arrived(&consumer, 2).await?;
    let shown: Vec<_> = came.iter().map(|d| (id(d), d.routing_key.clone())).collect();
    assert_eq!(shown, [(returned, "orders.paid".to_owned()), (chosen.to_owned(), "t".to_owned())]);
    for (arguments, why) in [
        ("NULL, '{}'", "topic is empty"),
        ("' \t', '{}'", "topic is empty"),
        ("repeat('ü', 128), '{}'", "topic has 256 bytes"),
        ("'t', NULL", "payload is null"),
        ("'t', '7'", "payload is a bare number"),
        ("'t', '\"x\"'", "payload is a bare string"),
        ("'t', '{}', headers => '[]'", "headers is not an object"),
        ("'t', '{}', headers => '{\"BCC\": [\"x\"]}'", "header BCC is not allowed"),
    ] {
        let refused = client.execute(&format!("SELECT pgoutbox.enqueue({arguments})"), &[]).await;
        let error = refused.err().with_context(|| format!("enqueue({arguments}) was taken"))?;
        let message = error.as_db_error().map_or_else(String::new, |db| db.message().to_owned());
        assert!(message.contains(why), "{arguments}: {message}");
    }
    assert_eq!(setting.ask::<i64>("SELECT count(*) FROM outbox_messages").await?, 2);
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn two_urls_are_all_it_takes() -> Result<()> {
    let (postgres, rabbitmq) = tokio::try_join!(shared::postgres(), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let amqp_url = rabbitmq.url(&vhost);
    // The default slot's name, which no other test may use.
    let program = Pgoutbox::at(BINARY)
        .env("DATABASE_URL", postgres.url(&database))
        .env("AMQP_URL", &amqp_url);
    program.succeed(&["init", "--declare"]).await?;
    program.succeed(&["check"]).await?;
    let options = harness::consumer::Options { declare_exchange: false, ..Default::default() };
    let consumer = Consumer::start(&amqp_url, options).await?;
    let relay = program.spawn(&["run"])?;
    postgres.execute(&database, "SELECT pgoutbox.enqueue('t', '{}')").await?;
    arrived(&consumer, 1).await?;
    relay.drain(PATIENCE).await?;
    program.succeed(&["status"]).await?;
    program.succeed(&["uninstall", "--yes"]).await?;
    Ok(())
}

/// A transaction that writes for longer than any lock is waited for: `init` waits for it as long
/// as it was told to, and then says who it is.
#[tokio::test]
async fn init_waits_for_who_is_writing_and_names_him() -> Result<()> {
    // Its own server: every new slot of a server waits for such a writer.
    let (_postgres, setting) = Setting::own_postgres().await?;
    let setting = setting.set("postgres.slot", "another").set("postgres.publication", "another");
    let writer = setting.client().await?;
    writer.batch_execute("CREATE TABLE busy (n int); BEGIN; INSERT INTO busy VALUES (1)").await?;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
    let told = setting.exits(1, &["init", "--slot-timeout", "11s"]).await?;
    assert!(told.contains("could not be created within 11s"), "{told}");
    assert!(told.contains(&pid.to_string()), "no pid {pid} in {told}");
    writer.batch_execute("ROLLBACK").await?;
    setting.exits(0, &["init"]).await?;
    Ok(())
}

/// Jobs begin at once: one makes all, and the others find it.
#[tokio::test]
async fn inits_at_once_wait_for_each_other() -> Result<()> {
    let setting = Setting::bare().await?;
    let other = setting.client().await?;
    let turn = "SELECT pg_advisory_lock(hashtextextended('pgoutbox init', 0))";
    other.batch_execute(turn).await?;
    let mut inits = Vec::new();
    for _ in 0..4 {
        inits.push(setting.program.spawn(&["init", "--declare"])?);
    }
    for init in &inits {
        init.wait_for_log("another pgoutbox init is at work", PATIENCE).await?;
    }
    assert_eq!(setting.ask::<String>(MADE).await?, "", "something was made meanwhile");
    other.batch_execute("SELECT pg_advisory_unlock_all()").await?;
    for init in &inits {
        let status = init.wait_exit(PATIENCE).await?;
        assert!(status.success(), "{}", init.log());
    }
    let said: String = inits.iter().map(Relay::log).collect();
    for (what, times) in [("made    ", 5), ("found   ", 15)] {
        assert_eq!(said.matches(what).count(), times, "{what}: {said}");
    }
    Ok(())
}

/// An id that is not text cannot be looked for: it is named, and how else to choose.
#[test]
fn an_id_that_is_no_text_is_a_mistake_of_usage() -> Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = OsStr::from_bytes(b"a\xff");
    for (command, otherwise) in
        [("replay", "--only unrelayed"), ("parked list", "--seq"), ("parked discard", "--seq")]
    {
        let output = Command::new(BINARY).args(command.split(' ')).arg("--id").arg(bad).output()?;
        let told = told(&output);
        assert_eq!(output.status.code(), Some(64), "{command}: {told}");
        for part in ["--id <ID>", r#""a\xFF" is not text in UTF-8"#, otherwise] {
            assert!(told.contains(part), "{command}: no {part} in {told}");
        }
    }
    Ok(())
}
