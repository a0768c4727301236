//! What a role, a database or a server has as its defaults does not reach pgoutbox: each of them
//! turned against it, every command and the relay.

use anyhow::{Context, Result, ensure};
use harness::events::event;
use harness::pgbouncer::PgBouncer;
use harness::shared;
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::postgres::{Role, connect, query};

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// Each breaks something, or changes what consumers read, where it is not pinned.
const HOSTILE: [(&str, &str); 30] = [
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "1ms"),
    ("lock_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "300ms"),
    ("datestyle", "German, DMY"),
    ("timezone", "Asia/Kathmandu"),
    ("intervalstyle", "sql_standard"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("xmlbinary", "hex"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("row_security", "off"),
    ("client_min_messages", "debug1"),
    ("client_encoding", "LATIN1"),
    ("jit", "on"),
    ("synchronous_commit", "remote_apply"),
    // On the stream alone.
    ("wal_sender_timeout", "1s"),
    ("tcp_user_timeout", "1ms"),
    ("tcp_keepalives_idle", "1"),
    // Not pinned, since they only cost time, or are what somebody may want: they do no harm.
    ("search_path", ""),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_indexscan", "off"),
    ("work_mem", "64kB"),
    ("session_replication_role", "replica"),
];

/// Those of the list that may stay as they are.
const HARMLESS: [&str; 5] =
    ["search_path", "plan_cache_mode", "enable_indexscan", "work_mem", "session_replication_role"];
/// Those that mean something on the stream alone.
const STREAM: [&str; 3] = ["wal_sender_timeout", "tcp_user_timeout", "tcp_keepalives_idle"];

const ROLES: [Role; 9] = [
    Role::Session,
    Role::Guard,
    Role::Prune,
    Role::Reconcile,
    Role::Replay,
    Role::Turn("test"),
    Role::Console,
    Role::Drop,
    Role::Command,
];

/// Whose defaults they are.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    /// The role's, in this database.
    Role,
    /// The database's, for all roles.
    Database,
}

/// A database with nothing in it yet, and a role (a new one, if none is named) of which each default
/// there is hostile. What is asked as somebody else is not concerned, but for a database's own.
async fn hostile(role: Option<&str>, of: Of) -> Result<(Setting, String)> {
    let (setting, postgres) = (Setting::bare().await?, shared::postgres().await?);
    let database = &setting.database;
    let role = role.unwrap_or(database);
    let mut sql = match role == database {
        true => format!("CREATE ROLE {role} LOGIN SUPERUSER;\n"),
        false => String::new(),
    };
    let newer = [("transaction_timeout", "300ms")];
    let newer = newer.iter().filter(|_| postgres.version() >= 17);
    for (name, value) in HOSTILE.iter().chain(newer) {
        // A pooler's own statements have them too, and what we pin comes after those.
        let is_pooled = role != database && name.ends_with("_timeout");
        let value = if is_pooled { "1h" } else { *value };
        sql += &match of {
            Of::Role => {
                format!("ALTER ROLE {role} IN DATABASE {database} SET {name} = '{value}';\n")
            }
            Of::Database => format!("ALTER DATABASE {database} SET {name} = '{value}';\n"),
        };
    }
    postgres.execute("postgres", &sql).await?;
    let url = postgres.url_as(role, postgres.port(), database);
    Ok((setting, url))
}

/// The test's own role has the server's settings again, whatever the database's are.
async fn spare_the_test(setting: &Setting) -> Result<()> {
    let postgres = shared::postgres().await?;
    let client = postgres.connect("postgres").await?;
    let names: Vec<&str> = HOSTILE.iter().map(|(name, _)| *name).collect();
    let sql = "SELECT string_agg(format('ALTER ROLE postgres IN DATABASE %I SET %I = %s;', $1::text, name,
                                        CASE name WHEN 'search_path' THEN current_setting(name) ELSE quote_literal(current_setting(name)) END), ' ')
                 FROM unnest($2::text[] || CASE WHEN current_setting('server_version_num')::int >= 170000 THEN '{transaction_timeout}'::text[] END) AS name";
    let spared: String = client.query_one(sql, &[&setting.database, &names]).await?.try_get(0)?;
    postgres.execute("postgres", &spared).await
}

#[tokio::test]
async fn every_connection_has_the_settings_of_its_role() -> Result<()> {
    pgoutbox::testing::install_provider();
    connections_of(Of::Role).await?;
    connections_of(Of::Database).await
}

async fn connections_of(of: Of) -> Result<()> {
    // The poolers know this role alone.
    let (setting, url) = hostile(Some("postgres"), of).await?;
    let postgres = shared::postgres().await?;
    // As it is refused by a pooler as it comes, and dropped by one that is told to.
    let refuses = PgBouncer::start(postgres, &["pool_mode = session"]).await?;
    let drops = "ignore_startup_parameters = options";
    let drops = PgBouncer::start(postgres, &["pool_mode = session", drops]).await?;
    let through = |port| postgres.url_as("postgres", port, &setting.database);
    let urls = [
        ("directly", url),
        ("a pooler that refuses options", through(refuses.port())),
        ("a pooler that drops options", through(drops.port())),
    ];
    for (how, url) in urls {
        let env = [("DATABASE_URL", url.as_str()), ("PGOUTBOX_POSTGRES__SLOT", &setting.database)];
        let env = env.map(|(name, value)| (name.into(), value.into()));
        let sources = Sources { env: env.into(), ..Sources::default() };
        let config = Config::load(&sources, Needs::POSTGRES)?;
        for role in ROLES {
            let (client, _driver) = connect(role, &config.postgres).await?;
            let asked = "SELECT coalesce(string_agg(name || '=' || setting, ', ' ORDER BY name), '')
                           FROM pg_settings
                          WHERE source IN ('database', 'user', 'database user')
                            AND name <> ALL ('{search_path,plan_cache_mode,enable_indexscan,work_mem,session_replication_role,wal_sender_timeout,tcp_user_timeout,tcp_keepalives_idle}')";
            let left: String = query(&client, asked).await?.first().context("a row")?.try_get(0)?;
            assert_eq!(left, "", "{how}: {role:?} has defaults of the database's");
        }
    }
    assert!(HARMLESS.iter().chain(&STREAM).all(|name| HOSTILE.iter().any(|(of, _)| of == name)));
    Ok(())
}

#[tokio::test]
async fn every_command_and_the_relay_run_whatever_the_defaults_of_the_role_are() -> Result<()> {
    commands_and_relay(Of::Role).await
}

#[tokio::test]
async fn every_command_and_the_relay_run_whatever_the_defaults_of_the_database_are() -> Result<()> {
    commands_and_relay(Of::Database).await
}

async fn commands_and_relay(of: Of) -> Result<()> {
    let (admin, url) = hostile(None, of).await?;
    if of == Of::Database {
        spare_the_test(&admin).await?;
    }
    let mut setting = admin.clone();
    setting.env("DATABASE_URL", &url);
    let setting = setting
        .set("reconcile.interval", "1s")
        .set("reconcile.age", "1s")
        .set("reconcile.republish", "true")
        .set("audit.hold", "500ms")
        .set("audit.give_up", "1s")
        .set("prune.keep", "1h")
        .set("prune.interval", "1s")
        .set("guard.interval", "1s")
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "2h");
    setting.init().await?;
    let consumer = admin.bound("good").await?;
    // A list of rows that no slot holds: a catch-up goes before the stream.
    admin.insert(event(1, "good").of("good")).await?;
    admin
        .sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = current_database()")
        .await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    arrived(&consumer, 1).await?;
    admin.insert(event(2, "good").of("good")).await?;
    admin.insert(event(3, "nobody").of("nobody")).await?;
    arrived(&consumer, 2).await?;
    admin.until("it is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    admin
        .until(
            "they are marked",
            "SELECT count(*) = 1 FROM outbox_messages WHERE relayed_at IS NULL",
        )
        .await?;
    // As long as any of the timeouts takes, with nothing to do: reconciliation and pruning go round.
    let rounds = "SELECT now() > min(relayed_at) + interval '3 s' FROM outbox_messages";
    admin.until("some rounds", rounds).await?;
    for (args, code) in [
        (&["check"][..], 0),
        (&["status"], 0),
        (&["init", "--dry-run"], 0),
        (&["verify"], 0),
        (&["parked", "list"], 0),
        (&["parked", "show", "--id", &uuid(3)], 0),
        (&["replay", "--id", &uuid(1), "--dry-run"], 0),
        (&["replay", "--id", &uuid(1)], 0),
        (&["prune", "--dry-run"], 0),
        (&["pause"], 0),
        (&["resume"], 0),
        (&["parked", "discard", "--id", &uuid(3), "--yes"], 0),
    ] {
        let output = setting.program.output(args).await?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_right = output.status.code() == Some(code) && !said.contains("SQLSTATE");
        ensure!(is_right, "{args:?}: {} {said}", output.status);
    }
    admin.insert(event(4, "good").of("good")).await?;
    let came = ids(&arrived(&consumer, 4).await?);
    assert_eq!(came, [1, 2, 1, 4].map(uuid), "{}", relay.log());
    // One transaction that takes longer than any of the timeouts.
    admin
        .sql(
            "INSERT INTO outbox_messages (id, topic, payload)
             SELECT gen_random_uuid(), 'good', '{}' FROM generate_series(1, 20000)",
        )
        .await?;
    arrived(&consumer, 20_004).await.with_context(|| relay.log())?;
    let log = relay.log();
    let wrong = log.lines().find(|line| line.contains("again_in") || line.contains("SQLSTATE"));
    assert_eq!(wrong, None, "{log}");
    let marked =
        "SELECT bool_and(relayed_at IS NOT NULL) FROM outbox_messages WHERE topic = 'good'";
    admin.until("all are marked", marked).await?;
    relay.drain(PATIENCE).await?;
    Ok(())
}
