//! What must never be shown: passwords, payloads, header values.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use harness::rabbitmq::Permissions;
use harness::relay::Relay;
use harness::wait_until;
use serde_json::Value;

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};
use crate::tls::servers;

/// Each in the form in which it stands in a URL, and decoded.
const SECRETS: [&str; 7] = [
    "pgsecret%2F77",
    "pgsecret/77",
    "mqsecret%4088",
    "mqsecret@88",
    "wrongsecret99",
    "payload-marker",
    "header-marker",
];

/// Everything that was said.
#[derive(Default)]
struct Said(String);

impl Said {
    fn log(&mut self, relay: &Relay) -> Result<()> {
        self.0 += &relay.log();
        Ok(())
    }

    fn command_line(&mut self, relay: &Relay) -> Result<()> {
        self.0 += &std::fs::read_to_string(format!("/proc/{}/cmdline", relay.pid()))?;
        Ok(())
    }

    async fn commands(&mut self, setting: &Setting) -> Result<()> {
        for command in [
            &["status"][..],
            &["status", "--json"],
            &["check"],
            &["check", "--json"],
            &["config"],
            &["config", "--json"],
            &["init", "--declare"],
        ] {
            let output = setting.program.output(command).await?;
            let both = [output.stdout, output.stderr].concat();
            self.0 += &String::from_utf8_lossy(&both);
        }
        Ok(())
    }

    fn holds_no_secret(&self) {
        for line in self.0.lines() {
            for secret in SECRETS {
                assert!(!line.contains(secret), "{secret} is shown: {line}");
                // As `Debug` writes a body.
                let bytes = format!("{:?}", secret.as_bytes());
                let bytes = bytes.trim_matches(['[', ']']);
                assert!(!line.contains(bytes), "{secret} is shown as numbers: {line}");
            }
        }
        assert!(self.0.lines().count() > 20, "too little was said to prove anything");
    }
}

/// With a role and a user of its own, whose passwords stand in the URLs.
async fn setting() -> Result<Setting> {
    let servers = servers().await?;
    let setting = servers.setting().await?;
    let (role, vhost) = (setting.database.clone(), setting.vhost.clone());
    let create = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'pgsecret/77'");
    setting.sql(&create).await?;
    servers.rabbitmq.add_user(&role, "mqsecret@88", &vhost, Permissions::ALL).await?;
    let postgres = &servers.postgres;
    let database_url = postgres.url_as(&format!("{role}:pgsecret%2F77"), postgres.port(), &role);
    let rabbitmq = &servers.rabbitmq;
    let amqp_url = rabbitmq.url_as(&format!("{role}:mqsecret%4088"), rabbitmq.port(), &vhost);
    Ok(setting.set("postgres.url", &database_url).set("amqp.url", &amqp_url))
}

#[tokio::test]
async fn no_secret_is_shown_whatever_fails() -> Result<()> {
    let setting = setting().await?.set("session.backoff_max", "500ms");
    let mut said = Said::default();
    for key in ["postgres.password", "amqp.password"] {
        let wrong = setting.clone().set(key, "wrongsecret99");
        let wrong = wrong.set("log.level", "info,pgoutbox=debug");
        let relay = wrong.run()?;
        let line = relay.wait_for_log("failures=2", PATIENCE).await?;
        let server = if key.starts_with("amqp") { "RabbitMQ at" } else { "Postgres at" };
        assert!(line.contains(server) && line.contains("check user and password"), "{line}");
        said.command_line(&relay)?;
        said.commands(&wrong).await?;
        relay.drain(PATIENCE).await?;
        said.log(&relay)?;
    }
    // As chatty as it gets: what the client libraries say then is ours to keep back too.
    let chatty = setting.clone().set("log.level", "trace");
    let consumer = setting.consumer().await?;
    let relay = chatty.run()?;
    setting
        .sql(
            "INSERT INTO outbox_messages (topic, payload, headers)
             VALUES ('t', '{\"p\": \"payload-marker\"}', '{\"h\": \"header-marker\"}')",
        )
        .await?;
    arrived(&consumer, 1).await?;
    setting
        .sql(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            setting.database
        ))
        .await?;
    relay.wait_for_log("again_in", PATIENCE).await?;
    setting
        .sql(
            "INSERT INTO outbox_messages (topic, payload, headers)
             VALUES ('t', '{\"p\": \"payload-marker\"}', '{\"CC\": [\"header-marker\"]}')",
        )
        .await?;
    setting.until("it to be parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    said.command_line(&relay)?;
    said.commands(&setting).await?;
    relay.drain(PATIENCE).await?;
    said.log(&relay)?;
    // One that the broker returns, with its body: the client library would log it.
    let bare = setting.clone().set("log.level", "debug").set("tables.0.exchange", "amq.direct");
    let relay = bare.set("tables.0.columns.headers", "").run()?;
    relay.wait_for_log("NO_ROUTE", PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    said.log(&relay)?;
    // A URL that cannot be read: the password may stand anywhere in it.
    for url in ["postgres://role:pgsecret/77@localhost/db", "postgres://role:pgsecret/77@@x:y/db"] {
        let output = setting.clone().set("postgres.url", url).program.output(&["check"]).await?;
        assert_eq!(output.status.code(), Some(64));
        said.0 += &String::from_utf8_lossy(&output.stderr);
    }
    said.holds_no_secret();
    Ok(())
}

#[tokio::test]
async fn a_json_log_is_json_line_by_line_to_its_end() -> Result<()> {
    let setting =
        Setting::shared().await?.set("log.format", "json").set("session.backoff_max", "200ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql("SELECT pgoutbox.enqueue('t', '{}')").await?;
    arrived(&consumer, 1).await?;
    // It ends by itself, over what a policy says to stop for.
    relay.drain(PATIENCE).await?;
    let slot = format!("SELECT pg_drop_replication_slot('{}')", setting.database);
    setting.sql(&slot).await?;
    let relay = setting.set("postgres.on_slot_loss", "halt").run()?;
    let status = relay.wait_exit(PATIENCE).await?;
    assert_eq!(status.code(), Some(1), "{}", relay.log());
    let log = relay.log();
    let mut last = Value::Null;
    for line in log.lines() {
        last = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        for field in ["timestamp", "level", "message"] {
            assert!(last[field].is_string(), "no {field} in {line}");
        }
    }
    assert_eq!(last["level"], "ERROR", "{last}");
    assert!(
        last["message"].as_str().is_some_and(|told| told.contains("does not exist any more")),
        "{last}"
    );
    assert!(last["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{last}");
    Ok(())
}

/// A flag is read by everybody, and a line says so; another user's process is read by nobody.
#[tokio::test]
async fn a_process_keeps_its_secrets_to_itself() -> Result<()> {
    let setting = Setting::bare().await?;
    let url = "postgres://nobody:wrongsecret99@127.0.0.1:1/none";
    let output = setting.program.output(&["status", "--database-url", url]).await?;
    let told = String::from_utf8(output.stderr)?;
    ensure!(told.contains("warning: --database-url holds a password"), "{told}");
    ensure!(told.contains("PGOUTBOX_POSTGRES__URL_FILE"), "{told}");
    ensure!(!told.contains("wrongsecret99"), "{told}");
    let output = setting.program.output(&["config"]).await?;
    ensure!(!String::from_utf8(output.stderr)?.contains("warning"), "variables are no flags");

    // Its files in /proc are root's, whoever runs it: so is what they hold.
    let relay = setting.program.as_nobody()?.spawn(&["run"])?;
    let entry = format!("/proc/{}/environ", relay.pid());
    wait_until("the environment to be root's", PATIENCE, async || {
        let owner = std::fs::metadata(&entry)?.uid();
        let name = std::fs::read_to_string(format!("/proc/{}/comm", relay.pid()))?;
        Ok(name.trim() == "pgoutbox" && owner == 0)
    })
    .await
    .with_context(|| relay.log())
}
