//! Outages of all kinds: what is told while they last, wherever one looks, and what is left of them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::http::get;
use harness::postgres::{self, Postgres, Shutdown};
use harness::proxy::{Direction, Proxy};
use harness::rabbitmq::RabbitMq;
use harness::relay::Relay;
use harness::{Signal, shared, signal, wait_for};
use serde_json::Value;

use crate::alerts;
use crate::setting::{PATIENCE, Setting};

/// A relay that goes through one outage after the other.
struct Scene {
    setting: Setting,
    relay: Relay,
    address: SocketAddr,
    consumer: Consumer,
    events: usize,
}

/// What is expected while an outage lasts.
#[derive(Clone, Copy)]
struct Expected {
    /// The reason of `/readyz`.
    code: &'static str,
    /// What the hint names.
    hint: &'static str,
    /// `pgoutbox status` can ask Postgres.
    has_postgres: bool,
    /// Sessions end in it.
    ends_sessions: bool,
}

const BROKER: Expected =
    Expected { code: "fault", hint: "", has_postgres: true, ends_sessions: true };
const POSTGRES: Expected = Expected { has_postgres: false, ..BROKER };

impl Scene {
    async fn of(setting: Setting) -> Result<Self> {
        let port = harness::free_port()?;
        let setting = setting
            .set("http.address", &format!("127.0.0.1:{port}"))
            .set("session.backoff_max", "300ms")
            .set("guard.interval", "200ms")
            .set("postgres.connect_timeout", "3s")
            .set("amqp.connect_timeout", "3s");
        let consumer = setting.consumer().await?;
        let relay = setting.run()?;
        let address = relay.http(PATIENCE).await?;
        let mut scene = Self { setting, relay, address, consumer, events: 0 };
        scene.deliver().await?;
        scene.until_ready().await?;
        Ok(scene)
    }

    async fn commit(&mut self) -> Result<()> {
        self.events += 1;
        let sql = "INSERT INTO outbox_messages (topic, payload) VALUES ('t', '1')";
        self.setting.sql(sql).await
    }

    /// One more event comes through, whatever became of the consumer.
    async fn deliver(&mut self) -> Result<()> {
        self.commit().await?;
        self.setting.all_marked().await.with_context(|| self.relay.log())
    }

    async fn readyz(&self) -> Result<(u16, Value)> {
        let answer = get(self.address, "/readyz").await?;
        Ok((answer.code, answer.json()?))
    }

    async fn until_ready(&self) -> Result<()> {
        wait_for("the relay to be ready", PATIENCE, async || {
            let (code, told) = self.readyz().await?;
            ensure!(code == 200, "{told}");
            Ok(Some(()))
        })
        .await
        .with_context(|| self.relay.log())
    }

    /// The reason that `/readyz` gives first, once it is this one.
    async fn until_down(&self, code: &str, hint: &str) -> Result<Value> {
        wait_for(&format!("readyz to say {code}"), PATIENCE, async || {
            let (status, told) = self.readyz().await?;
            let reason = &told["reasons"][0];
            ensure!(status == 503 && reason["code"] == code, "{status} {told}");
            let said = reason["hint"].as_str().unwrap_or_default();
            ensure!(!said.is_empty() && said.contains(hint), "{told}");
            Ok(Some(reason.clone()))
        })
        .await
        .with_context(|| self.relay.log())
    }

    async fn fault(&self) -> Result<Value> {
        Ok(get(self.address, "/status").await?.json()?["fault"].clone())
    }

    /// What holds while the outage lasts.
    async fn is_told(&self, name: &str, expected: Expected) -> Result<()> {
        let down = self.until_down(expected.code, expected.hint).await;
        down.with_context(|| name.to_owned())?;
        if expected.ends_sessions {
            let first = self.fault().await?;
            let more = format!("{name}: more failures");
            let later = wait_for(&more, PATIENCE, async || {
                let fault = self.fault().await?;
                ensure!(fault["failures"].as_u64() >= Some(3), "{fault}");
                Ok(Some(fault))
            });
            let later = later.await.with_context(|| self.relay.log())?;
            ensure!(later["since"] == first["since"], "{name}: {first} and then {later}");
        }
        let metrics = get(self.address, "/metrics").await?.body;
        let blocked = format!("pgoutbox_blocked_seconds{{reason=\"{}\"}} ", expected.code);
        let lasted = metrics.lines().find_map(|line| line.strip_prefix(&blocked)?.parse().ok());
        ensure!(lasted > Some(0.0), "{name}: {blocked}{lasted:?}");
        alerts::wake_somebody(&metrics).with_context(|| name.to_owned())?;
        self.command_agrees(name, expected).await
    }

    async fn command_agrees(&self, name: &str, expected: Expected) -> Result<()> {
        let output = self.setting.program.output(&["status", "--json"]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if !expected.has_postgres {
            ensure!(output.status.code() != Some(0), "{name}: {output:?}");
            return Ok(());
        }
        ensure!(output.status.code() == Some(1), "{name}: {output:?}");
        let told: Value = serde_json::from_str(&told)?;
        ensure!(told["live"]["reasons"][0]["code"] == expected.code, "{name}: {told}");
        if expected.ends_sessions || expected.code == "broker_blocked" {
            for key in ["what", "hint", "since"] {
                let text = told["fault"][key].as_str().unwrap_or_default();
                ensure!(!text.is_empty(), "{name}: no {key} in {}", told["fault"]);
            }
            ensure!(told["fault"]["lasted_seconds"].as_f64() > Some(0.0), "{name}: {told}");
            let verified = self.setting.program.output(&["verify", "--wait", "0s"]).await?;
            let text = String::from_utf8_lossy(&verified.stdout).into_owned();
            ensure!(text.contains("the relay is stuck"), "{name}: {text}");
        }
        Ok(())
    }

    /// What is left once it is over; `from` is where its part of the log begins.
    async fn is_over(&mut self, name: &str, from: usize) -> Result<()> {
        self.until_ready().await.with_context(|| name.to_owned())?;
        self.deliver().await.with_context(|| name.to_owned())?;
        let metrics = get(self.address, "/metrics").await?.body;
        alerts::are_quiet(&metrics).with_context(|| format!("after {name}"))?;
        let log = self.relay.log().split_off(from);
        let loud = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR"));
        let loud: Vec<&str> = loud.filter(|line| !line.contains("guard")).collect();
        ensure!((1..=5).contains(&loud.len()), "{name}: {} lines:\n{log}", loud.len());
        for line in loud {
            ensure!(line.contains("hint=") && !line.contains("hint=\"\""), "{name}: {line}");
        }
        let ends = log.matches("events are delivered again").count();
        ensure!(ends == 1 && log.contains("lasted="), "{name}: {ends} ends:\n{log}");
        wait_for("the status to be good again", PATIENCE, async || {
            let output = self.setting.program.output(&["status", "--json"]).await?;
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.code() == Some(0), "{name}: {told}");
            let told: Value = serde_json::from_str(&told)?;
            ensure!(told["fault"].is_null() && told["is_well"] == true, "{name}: {told}");
            Ok(Some(()))
        })
        .await
    }
}

#[derive(Clone, Copy, Debug)]
enum BrokerOutage {
    Down,
    Alarm,
    WrongPassword,
    NoVhost,
    NoConnections,
    BlackHole,
}

impl BrokerOutage {
    const ALL: [(Self, Expected); 6] = [
        (Self::Down, BROKER),
        (
            Self::Alarm,
            Expected { code: "broker_blocked", hint: "alarms", ends_sessions: false, ..BROKER },
        ),
        (Self::WrongPassword, BROKER),
        (Self::NoVhost, BROKER),
        (Self::NoConnections, BROKER),
        (Self::BlackHole, BROKER),
    ];

    async fn begin(self, rabbitmq: &RabbitMq, proxy: &Proxy, vhost: &str) -> Result<()> {
        match self {
            Self::Down => return rabbitmq.stop().await,
            Self::Alarm => return rabbitmq.memory_alarm(true).await,
            Self::WrongPassword => _ = rabbitmq.ctl(&["change_password", "guest", "x"]).await?,
            Self::NoVhost => _ = rabbitmq.ctl(&["delete_vhost", vhost]).await?,
            Self::NoConnections => {
                let limit = "{\"max-connections\": 0}";
                _ = rabbitmq.ctl(&["set_vhost_limits", "-p", vhost, limit]).await?;
            }
            Self::BlackHole => {
                proxy.stall(Direction::Up);
                proxy.stall(Direction::Down);
                return Ok(());
            }
        }
        rabbitmq.close_all_connections().await
    }

    async fn end(self, rabbitmq: &RabbitMq, proxy: &Proxy, setting: &Setting) -> Result<()> {
        let vhost = setting.vhost.as_str();
        match self {
            Self::Down => rabbitmq.start_again().await?,
            Self::Alarm => rabbitmq.memory_alarm(false).await?,
            Self::WrongPassword => {
                _ = rabbitmq.ctl(&["change_password", "guest", "guest"]).await?;
            }
            Self::NoVhost => {
                rabbitmq.ctl(&["add_vhost", vhost]).await?;
                rabbitmq.ctl(&["set_permissions", "-p", vhost, "guest", ".*", ".*", ".*"]).await?;
            }
            Self::NoConnections => _ = rabbitmq.ctl(&["clear_vhost_limits", "-p", vhost]).await?,
            Self::BlackHole => {
                proxy.resume(Direction::Up);
                proxy.resume(Direction::Down);
            }
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_outage_of_the_broker_is_told_from_its_beginning_to_its_end() -> Result<()> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let proxy = Proxy::start(rabbitmq.port()).await?;
    let broker = proxy.url(&setting.amqp_url);
    let setting = setting.set("amqp.url", &broker).set("amqp.heartbeat", "7s");
    let mut scene = Scene::of(setting.clone()).await?;
    for (outage, expected) in BrokerOutage::ALL {
        let name = format!("{outage:?}");
        let from = scene.relay.log().len();
        outage.begin(&rabbitmq, &proxy, &setting.vhost).await?;
        scene.commit().await?;
        if matches!(outage, BrokerOutage::Alarm) {
            let checked = setting.program.output(&["check", "--json"]).await?;
            let told = String::from_utf8_lossy(&checked.stdout).into_owned();
            let found: Value = serde_json::from_str(&told)?;
            let found = found["findings"].as_array().context("no findings")?;
            let wanted = ["broker-blocked", "error"];
            let is_it = |one: &Value| wanted == [&one["name"], &one["severity"]];
            ensure!(found.iter().any(is_it) && checked.status.code() == Some(1), "{told}");
        }
        let told = match outage {
            // Before the heartbeats have ended the session, too.
            BrokerOutage::BlackHole => scene.until_down("stalled", "").await.map(drop),
            _ => Ok(()),
        };
        let told = match told {
            Ok(()) => scene.is_told(&name, expected).await,
            Err(error) => Err(error),
        };
        outage.end(&rabbitmq, &proxy, &setting).await?;
        told?;
        if matches!(outage, BrokerOutage::NoVhost) {
            setting.program.succeed(&["init", "--declare"]).await?;
            scene.consumer = setting.consumer().await?;
        }
        if matches!(outage, BrokerOutage::Down) {
            scene.consumer = setting.consumer().await?;
        }
        scene.is_over(&name, from).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum PostgresOutage {
    Down,
    BlackHole,
    FrozenWalsender,
    WrongPassword,
}

/// Ends the stream.
const KICK: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'";

impl PostgresOutage {
    const ALL: [(Self, Expected); 4] = [
        (Self::Down, POSTGRES),
        (Self::BlackHole, Expected { has_postgres: true, ..POSTGRES }),
        (
            Self::FrozenWalsender,
            Expected {
                has_postgres: true,
                hint: "pg_terminate_backend",
                ends_sessions: false,
                ..POSTGRES
            },
        ),
        (Self::WrongPassword, Expected { has_postgres: true, ..POSTGRES }),
    ];

    async fn begin(self, postgres: &Postgres, proxy: &Proxy, slot: &str) -> Result<Option<u32>> {
        match self {
            Self::Down => {
                postgres.stop(Shutdown::Fast, PATIENCE).await?;
            }
            Self::BlackHole => {
                proxy.stall(Direction::Up);
                proxy.stall(Direction::Down);
            }
            Self::FrozenWalsender => {
                let pid = postgres.walsender_pid(slot).await?.context("no walsender")?;
                signal(pid, Signal::STOP)?;
                return Ok(Some(pid));
            }
            Self::WrongPassword => {
                let sql = format!("ALTER ROLE relay PASSWORD 'another'; {KICK}");
                postgres.execute("postgres", &sql).await?;
            }
        }
        Ok(None)
    }

    async fn end(self, postgres: &Postgres, proxy: &Proxy, frozen: Option<u32>) -> Result<()> {
        match self {
            Self::Down => postgres.start_again().await,
            Self::BlackHole => {
                proxy.resume(Direction::Up);
                proxy.resume(Direction::Down);
                Ok(())
            }
            Self::FrozenWalsender => signal(frozen.context("no pid")?, Signal::CONT),
            Self::WrongPassword => {
                postgres.execute("postgres", "ALTER ROLE relay PASSWORD 'right'").await
            }
        }
    }
}

#[tokio::test]
async fn an_outage_of_postgres_is_told_from_its_beginning_to_its_end() -> Result<()> {
    let hba = vec!["host all relay all scram-sha-256".to_owned()];
    let own = Postgres::start(postgres::Options { hba, ..Default::default() });
    let (postgres, rabbitmq) = tokio::try_join!(own, shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database.clone(), vhost, url, amqp_url).await?;
    setting.sql("CREATE ROLE relay REPLICATION LOGIN PASSWORD 'right'").await?;
    let proxy = Proxy::start(postgres.port()).await?;
    let stream = postgres.url_as("relay:right", proxy.port(), &database);
    let setting =
        setting.set("postgres.stream_url", &stream).set("postgres.wal_sender_timeout", "3s");
    let mut scene = Scene::of(setting).await?;
    for (outage, expected) in PostgresOutage::ALL {
        let name = format!("{outage:?}");
        let from = scene.relay.log().len();
        let frozen = outage.begin(&postgres, &proxy, &database).await?;
        let told = match outage {
            // Before the session has ended, too.
            PostgresOutage::BlackHole | PostgresOutage::FrozenWalsender => {
                scene.until_down("postgres_silent", "").await.map(drop)
            }
            _ => Ok(()),
        };
        let told = match told {
            Ok(()) => scene.is_told(&name, expected).await,
            Err(error) => Err(error),
        };
        outage.end(&postgres, &proxy, frozen).await?;
        told?;
        scene.is_over(&name, from).await?;
    }
    Ok(())
}

/// "Since" is of the outage, not of the process that tells of it.
#[tokio::test]
async fn an_outage_outlives_the_process_that_saw_it_begin() -> Result<()> {
    let setting = Setting::shared().await?;
    let setting = setting.set("amqp.url", "amqp://127.0.0.1:1").set("session.backoff_max", "300ms");
    let fault = async |relay: &Relay| {
        let address = relay.http(PATIENCE).await?;
        wait_for("two failures", PATIENCE, async || {
            let told = get(address, "/status").await?.json()?["fault"].clone();
            Ok((told["failures"].as_u64() >= Some(2)).then_some(told))
        })
        .await
        .with_context(|| relay.log())
    };
    let relay = setting.run()?;
    fault(&relay).await?;
    let seen = std::time::Instant::now();
    let is_recorded = "SELECT count(*) = 1 FROM pgoutbox.progress WHERE fault IS NOT NULL";
    setting.until("the record of it", is_recorded).await?;
    relay.kill9().await?;
    let relay = setting.run()?;
    let least = seen.elapsed().as_secs_f64();
    let told = fault(&relay).await?;
    let lasted = told["lasted_seconds"].as_f64();
    ensure!(lasted > Some(least), "{told} after {least}");
    relay.drain(PATIENCE).await
}

/// What runs beside the sessions fails of the same: one line says it.
#[tokio::test]
async fn one_wrong_login_is_one_line() -> Result<()> {
    let setting = Setting::shared().await?.set("log.level", "info,pgoutbox=debug");
    let url = setting.database_url.replace("postgres://postgres", "postgres://nobody_of_this_name");
    let mut setting = setting;
    setting.env("DATABASE_URL", &url);
    let relay = setting.run()?;
    for told in ["WAL guard: cannot query", "pruning: ", "reconciliation: ", "still: "] {
        relay.wait_for_log(told, PATIENCE).await?;
    }
    let log = relay.log();
    let lines = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let lines: Vec<_> = lines.filter(|line| line.contains("nobody_of_this_name")).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}\n{log}");
    Ok(())
}
