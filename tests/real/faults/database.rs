//! A server that goes away, hangs, or is not set up as it should be; and a relay that is gone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::certs::Authority;
use harness::events::event;
use harness::postgres::{self, Auth, Postgres, Shutdown};
use harness::{Signal, shared, signal};

use super::{Asked, Fault, Scene, Told, down, print};
use crate::setting::{PATIENCE, Setting};

const fn nobody(name: &'static str, code: &'static str, check: &'static str) -> Fault {
    Fault { name, code, is_down: true, cause: "", check }
}

pub const ALL: [Fault; 12] = [
    down("Postgres down", "postgres-connection"),
    Fault { code: "postgres_silent", ..down("walsender frozen", "postgres-connection") },
    down("password changed at Postgres", "postgres-login"),
    down("connection limit of the role", "max-connections"),
    down("`wal_level` not `logical`", "wal-level"),
    down("certificate of another authority", "tls-certificate"),
    down("a standby in place of the primary", "standby"),
    Fault { code: "slot_lost", ..down("slot lost while the relay is paused", "slot-lost") },
    nobody("slot lost to `max_slot_wal_keep_size`, and no relay", "slot_lost", "slot-lost"),
    nobody("slot gone, and no relay", "slot_missing", "slot-missing"),
    nobody("relay killed", "no_relay", "slot-unread"),
    nobody("relay frozen", "loop_silent", "relay-stuck"),
];

fn fault(name: &str) -> Result<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name).with_context(|| name.to_owned())
}

/// A server that asks for passwords, and the setting of a role that is no superuser.
async fn with_password() -> Result<(Postgres, Setting, Setting)> {
    let options = postgres::Options { auth: Auth::Scram, ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (url, amqp) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, url, amqp).await?;
    let roles = "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'one'; ALTER SCHEMA pgoutbox OWNER TO relay;
                 GRANT ALL ON ALL TABLES IN SCHEMA pgoutbox, public TO relay; ALTER TABLE outbox_messages OWNER TO relay;
                 GRANT ALL ON ALL SEQUENCES IN SCHEMA pgoutbox TO relay";
    postgres.execute(&setting.database, roles).await?;
    let url = format!("postgres://relay:one@127.0.0.1:{}/{}", postgres.port(), setting.database);
    let relay = setting.clone().set("postgres.url", &url);
    Ok((postgres, setting, relay))
}

#[tokio::test]
async fn a_server_that_goes_away_or_shuts_us_out_has_one_name() -> Result<()> {
    let (postgres, setting, as_role) = with_password().await?;
    let _consumer = setting.consumer().await?;
    let scene = Scene::running(&as_role).await?;
    let mut told: Vec<Told> = Vec::new();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'";

    let pid = postgres.walsender_pid(&setting.database).await?.context("no walsender")?;
    signal(pid, Signal::STOP)?;
    setting.insert(event(1, "t")).await?;
    told.push(scene.tells(fault("walsender frozen")?).await?);
    signal(pid, Signal::CONT)?;
    scene.is_ready().await?;

    postgres.execute("postgres", &format!("ALTER ROLE relay PASSWORD 'two'; {end}")).await?;
    setting.insert(event(2, "t")).await?;
    told.push(scene.tells(fault("password changed at Postgres")?).await?);
    postgres.execute("postgres", "ALTER ROLE relay PASSWORD 'one'").await?;
    scene.is_ready().await?;

    postgres.execute("postgres", &format!("ALTER ROLE relay CONNECTION LIMIT 0; {end}")).await?;
    setting.insert(event(3, "t")).await?;
    told.push(scene.tells(fault("connection limit of the role")?).await?);
    postgres.execute("postgres", "ALTER ROLE relay CONNECTION LIMIT -1").await?;
    scene.is_ready().await?;

    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    told.push(scene.tells(fault("Postgres down")?).await?);
    postgres.start_again().await?;
    scene.is_ready().await?;

    scene.relay.sigstop()?;
    let said = nobody_runs(&scene.setting, "relay frozen").await;
    scene.relay.sigcont()?;
    told.push(said?);
    scene.is_ready().await?;

    scene.relay.kill9().await?;
    setting.insert(event(4, "t")).await?;
    told.push(nobody_runs(&scene.setting, "relay killed").await?);
    print("server", &told)
}

/// No process is there to ask: `status` and `check` are all there is.
async fn nobody_runs(setting: &Setting, name: &str) -> Result<Told> {
    let fault = fault(name)?;
    let scene = Asked { setting };
    let first = scene.says(&["status"]).await?;
    ensure!(first.starts_with(&format!("down      {}: ", fault.code)), "{name}: {first}");
    Ok(Told {
        name: fault.name,
        after: Duration::ZERO,
        ready: "(no answer)".to_owned(),
        status: first,
        check: scene.found(fault).await?,
        log: "(none)".to_owned(),
    })
}

#[tokio::test]
async fn a_certificate_of_another_authority_has_one_name() -> Result<()> {
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let pair = ours.server(&["localhost", "127.0.0.1"])?;
    let tls = postgres::ServerTls { pair, ca: ours.pem().to_owned() };
    let options = postgres::Options { tls: Some(tls), ..Default::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (url, amqp) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, url, amqp).await?;
    let files = tempfile::tempdir()?;
    let file = files.path().join("theirs.pem");
    std::fs::write(&file, theirs.pem())?;
    let file = file.to_str().context("a path that is text")?;
    let scene = Scene::begin(&setting.set("postgres.ca_file", file))?;
    let told = scene.tells(fault("certificate of another authority")?).await?;
    scene.relay.kill9().await?;
    print("certificate", &[told])
}

/// Whoever says of it that its slot is lost: none names the WAL that it kept, and each the same that helps.
async fn a_paused_relay_is_to_be_resumed(scene: &Scene) -> Result<()> {
    let program = &scene.setting.program;
    let told = scene.relay.is_down("slot_lost", PATIENCE).await?;
    ensure!(told["hint"] == "pgoutbox resume", "{told}");
    for verb in ["check", "verify", "status"] {
        let output = program.output(&[verb]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = told.lines().skip_while(|line| !line.contains(" lost ("));
        let hint = lines.find_map(|line| line.trim().strip_prefix("hint: "));
        ensure!(hint == Some("pgoutbox resume"), "{verb}: {told}");
        let is_kept = ["no relay runs", "the slot keeps", "max_slot_wal_keep_size ="];
        ensure!(!is_kept.iter().any(|words| told.contains(words)), "{verb}: {told}");
    }
    let log = scene.relay.log();
    let line = log.lines().find(|line| line.contains("ERROR") && line.contains(" is lost ("));
    ensure!(line.is_some_and(|line| line.contains("hint=\"pgoutbox resume\"")), "{line:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_set_up_wrong_has_one_name() -> Result<()> {
    let mut told = Vec::new();
    let (postgres, setting) = Setting::own_postgres().await?;
    let standby = postgres.standby(&[]).await?;
    let url = standby.url(&setting.database);
    let scene = Scene::begin(&setting.clone().set("postgres.url", &url))?;
    told.push(scene.tells(fault("a standby in place of the primary")?).await?);
    scene.relay.kill9().await?;
    let verify = setting.clone().set("postgres.url", &url).program.output(&["verify"]).await?;
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    ensure!(
        said.contains("this Postgres is a standby") && said.contains("connect to the primary"),
        "{said}"
    );
    drop(standby);

    let scene = Scene::running(&setting).await?;
    setting.program.succeed(&["pause"]).await?;
    scene.relay.reaches("paused", PATIENCE).await?;
    // Ten segments more than it may keep.
    let limit = ["ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", "SELECT pg_reload_conf()"];
    for sql in limit {
        postgres.execute("postgres", sql).await?;
    }
    for _ in 0..10 {
        let segment = "SELECT pg_logical_emit_message(true, 'filler', 'x'); SELECT pg_switch_wal()";
        postgres.execute(&setting.database, segment).await?;
    }
    postgres.execute("postgres", "CHECKPOINT").await?;
    told.push(scene.tells(fault("slot lost while the relay is paused")?).await?);
    a_paused_relay_is_to_be_resumed(&scene).await.with_context(|| scene.relay.log())?;
    scene.relay.kill9().await?;
    setting.program.succeed(&["resume"]).await?;
    told.push(nobody_runs(&setting, "slot lost to `max_slot_wal_keep_size`, and no relay").await?);
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    postgres.execute(&setting.database, drop_slot).await?;
    told.push(nobody_runs(&setting, "slot gone, and no relay").await?);

    postgres.execute("postgres", "ALTER SYSTEM SET wal_level = 'replica'").await?;
    postgres.stop(Shutdown::Fast, PATIENCE).await?;
    postgres.start_again().await?;
    let scene = Scene::begin(&setting)?;
    told.push(scene.tells(fault("`wal_level` not `logical`")?).await?);
    scene.relay.kill9().await?;
    print("server-settings", &told)
}
