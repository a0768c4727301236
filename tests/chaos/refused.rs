//! What a server refuses for a while: events, permissions, passwords.

use std::time::Duration;

use anyhow::Result;
use harness::consumer::{self, Consumer};
use harness::postgres::{Auth, Options, Postgres};
use harness::proxy::{Cut, Direction, Proxy};
use harness::rabbitmq::Permissions;
use harness::workload::Ledger;
use harness::{shared, wait_until};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions};
use lapin::types::FieldTable;

use crate::round::{Allowed, Outcome, Round, Stage};
use harness::setting::Setting;

/// What becomes of an event that cannot be delivered, in every scenario here. Where it is parked,
/// only strict ordering keeps later events of its aggregate behind a returned one.
const ON_FAILURE: &str = "park";
const ORDERING: &str = "strict";

fn choose(setting: &mut Setting) {
    setting.env("PGOUTBOX_TABLES__0__ON_FAILURE", ON_FAILURE);
    setting.env("PGOUTBOX_WINDOW__ORDERING", ORDERING);
    // A fault of minutes is not to end a parked event's tries.
    setting.env("PGOUTBOX_PARKING__MAX_ATTEMPTS", "1000000");
    setting.env("PGOUTBOX_PARKING__LIMIT", "1000000");
    setting.env("PGOUTBOX_PARKING__BACKOFF_MIN", "50ms");
    setting.env("PGOUTBOX_PARKING__BACKOFF_MAX", "500ms");
}

/// After a nack or a return.
fn after_holes() -> Allowed {
    Allowed { overtaking: ORDERING == "pipelined", ..Allowed::default() }
}

async fn shared_setting() -> Result<Setting> {
    let mut setting = Setting::shared().await?;
    choose(&mut setting);
    Ok(setting)
}

async fn channel(setting: &Setting) -> Result<lapin::Channel> {
    Ok(harness::rabbitmq::connect(&setting.amqp_url).await?.create_channel().await?)
}

/// A queue that holds next to nothing refuses the rest while its consumer empties it.
pub async fn overflow(round: Round) -> Result<Outcome> {
    let faults = round.faults();
    fill(round, faults, Repair::Raise).await
}

/// A quorum queue whose limit is taken away while it refuses never tells the channels that it
/// refused that they may go on (`rabbit_fifo.erl`, `evaluate_limit`): the relay opens a new one.
pub async fn limit_cleared(round: Round) -> Result<Outcome> {
    fill(round, 1, Repair::Clear).await
}

#[derive(Clone, Copy)]
enum Repair {
    Raise,
    Clear,
}

async fn fill(round: Round, faults: usize, repair: Repair) -> Result<Outcome> {
    let setting = shared_setting().await?;
    let rabbitmq = shared::rabbitmq().await?;
    let proxy = Proxy::start(rabbitmq.port()).await?;
    let url = rabbitmq.url_on(proxy.port(), &setting.vhost);
    let options = consumer::Options { declare_exchange: false, prefetch: 5, ..Default::default() };
    let consumer = Consumer::start(&url, options).await?;
    let mut stage = Stage::with(&round, setting, consumer).await?;
    for _ in 0..faults {
        stage.moment().await?;
        let since = stage.lines();
        proxy.delay(Duration::from_millis(40), Direction::Down);
        let vhost = stage.setting.vhost.clone();
        let limit = async |length: u32| {
            let limit = format!(r#"{{"max-length": {length}, "overflow": "reject-publish"}}"#);
            rabbitmq.ctl(&["set_policy", "-p", &vhost, "full", "^consumer$", &limit]).await
        };
        limit(fastrand::u32(1..20)).await?;
        stage.while_committing().await?;
        // Where many were, only how many more is said.
        stage.felt(&["the broker nacked it", "were parked in", "refused in"], since).await;
        stage.while_committing().await?;
        proxy.delay(Duration::ZERO, Direction::Down);
        match repair {
            Repair::Raise => limit(10_000_000).await?,
            Repair::Clear => rabbitmq.ctl(&["clear_policy", "-p", &vhost, "full"]).await?,
        };
        stage.repaired().await?;
    }
    stage.judge(after_holes()).await
}

async fn bind(channel: &lapin::Channel) -> Result<()> {
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    Ok(channel
        .queue_bind("consumer".into(), "outbox".into(), "#".into(), options, arguments)
        .await?)
}

pub async fn binding(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, shared_setting().await?).await?;
    let channel = channel(&stage.setting).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        let arguments = FieldTable::default();
        channel.queue_unbind("consumer".into(), "outbox".into(), "#".into(), arguments).await?;
        stage.while_committing().await?;
        stage.parks("NO_ROUTE").await;
        bind(&channel).await?;
        stage.repaired().await?;
    }
    stage.judge(after_holes()).await
}

pub async fn exchange(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, shared_setting().await?).await?;
    let channel = channel(&stage.setting).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        let since = stage.lines();
        channel.exchange_delete("outbox".into(), ExchangeDeleteOptions::default()).await?;
        stage.while_committing().await?;
        stage.felt(&["no exchange 'outbox'"], since).await;
        // Between the two it is there and routes nowhere.
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare("outbox".into(), ExchangeKind::Topic, options, FieldTable::default())
            .await?;
        bind(&channel).await?;
        stage.repaired().await?;
    }
    stage.judge(after_holes()).await
}

/// A user of the relay's own, by way of a proxy: a broker looks at permissions and passwords
/// when a connection is new.
struct Login {
    proxy: Proxy,
    user: String,
}

impl Login {
    async fn of(setting: &mut Setting) -> Result<Self> {
        let rabbitmq = shared::rabbitmq().await?;
        let proxy = Proxy::start(rabbitmq.port()).await?;
        let login = Self { proxy, user: format!("relay-{}", setting.vhost) };
        login.set(setting, "first", true).await?;
        login.use_password(setting, "first").await?;
        Ok(login)
    }

    async fn set(&self, setting: &Setting, password: &str, may_write: bool) -> Result<()> {
        let write = if may_write { "^outbox$" } else { "^$" };
        let permissions = Permissions { write, ..Permissions::NONE };
        let rabbitmq = shared::rabbitmq().await?;
        rabbitmq.add_user(&self.user, password, &setting.vhost, permissions).await
    }

    async fn use_password(&self, setting: &mut Setting, password: &str) -> Result<()> {
        let rabbitmq = shared::rabbitmq().await?;
        let user = format!("{}:{password}", self.user);
        setting.env("AMQP_URL", &rabbitmq.url_as(&user, self.proxy.port(), &setting.vhost));
        Ok(())
    }
}

pub async fn permission(round: Round) -> Result<Outcome> {
    let mut setting = shared_setting().await?;
    let login = Login::of(&mut setting).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        let since = stage.lines();
        login.set(&stage.setting, "first", false).await?;
        login.proxy.cut(Cut::Fin);
        stage.while_committing().await?;
        stage.felt(&["access to exchange 'outbox'"], since).await;
        login.set(&stage.setting, "first", true).await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn broker_password(round: Round) -> Result<Outcome> {
    let mut setting = shared_setting().await?;
    let login = Login::of(&mut setting).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for change in 0..round.faults() {
        stage.moment().await?;
        let since = stage.lines();
        let password = format!("changed-{change}");
        login.set(&stage.setting, &password, true).await?;
        login.proxy.cut(Cut::Fin);
        stage.while_committing().await?;
        stage.felt(&["ACCESS_REFUSED", "login", "password"], since).await;
        // Settings are read at the start.
        stage.relay.kill9().await?;
        login.use_password(&mut stage.setting, &password).await?;
        stage.run()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn postgres_password(round: Round) -> Result<Outcome> {
    let options = Options { auth: Auth::Scram, ..Options::default() };
    let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let mut setting = Setting::of(database.clone(), vhost, database_url, amqp_url).await?;
    choose(&mut setting);
    let url =
        |password: &str| postgres.url_as(&format!("relay:{password}"), postgres.port(), &database);
    setting.sql("CREATE ROLE relay LOGIN SUPERUSER REPLICATION PASSWORD 'first'").await?;
    setting.env("DATABASE_URL", &url("first"));
    let mut stage = Stage::start(&round, setting).await?;
    for change in 0..round.faults() {
        stage.moment().await?;
        let since = stage.lines();
        let password = format!("changed-{change}");
        let sql = format!(
            "ALTER ROLE relay PASSWORD '{password}';
             SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay'"
        );
        stage.setting.sql(&sql).await?;
        stage.while_committing().await?;
        stage.felt(&["password authentication failed"], since).await;
        if stage.relay.is_running() {
            stage.relay.kill9().await?;
        }
        stage.setting.env("DATABASE_URL", &url(&password));
        stage.run()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

/// The relay may no longer mark. It ends, or says so and goes on; either way nothing is lost.
pub async fn mark_permission(round: Round) -> Result<Outcome> {
    let setting = shared_setting().await?.with_roles().await?;
    let audit = setting.audit_role();
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        let since = stage.lines();
        let right = format!("UPDATE (relayed_at) ON outbox_messages FROM {audit}");
        stage.setting.sql(&format!("REVOKE {right}")).await?;
        stage.while_committing().await?;
        stage.felt(&["permission denied"], since).await;
        stage.setting.sql(&format!("GRANT {}", right.replace("FROM", "TO"))).await?;
        // Until it marks again it is the same outage, which is said once. A table that takes no marks is
        // tried every 15 s at last.
        let granted: String = stage.setting.ask("SELECT clock_timestamp()::text").await?;
        let marks = "SELECT EXISTS (SELECT FROM outbox_messages WHERE relayed_at > ";
        stage.setting.until("a mark", &format!("{marks}'{granted}')")).await?;
        let ended = wait_until("the relay to end", Duration::from_secs(2), async || {
            Ok(!stage.relay.is_running())
        });
        if ended.await.is_ok() {
            stage.run()?;
        }
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

/// An event that cannot be a message until the relay is started with other settings.
async fn bad_row(
    round: Round,
    before: &[(&str, &str)],
    (columns, values, why): (&str, &str, &str),
    (name, value): (&str, &str),
) -> Result<Outcome> {
    let mut setting = shared_setting().await?;
    for (name, value) in before {
        setting.env(name, value);
    }
    let mut stage = Stage::start(&round, setting).await?;
    stage.moment().await?;
    let client = stage.setting.client().await?;
    let sql = format!(
        "INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, {columns})
         VALUES ('order', 'bad', 'placed', {values})
         RETURNING id, payload->>'aggregate', (payload->>'n')::bigint"
    );
    let row = client.query_one(&sql, &[]).await?;
    let mut bad = Ledger::default();
    let event = harness::workload::Event {
        aggregate: row.try_get(1)?,
        n: row.try_get(2)?,
        commit_sent: std::time::SystemTime::now(),
    };
    bad.committed.insert(row.try_get(0)?, event);
    stage.while_committing().await?;
    stage.felt(&[why], 0).await;
    stage.relay.drain(round.patience()).await?;
    stage.setting.env(name, value);
    // What is over a limit has failed, and is not tried again by itself.
    stage.setting.program.succeed(&["parked", "retry", "--aggregate", "order/bad"]).await?;
    stage.run()?;
    stage.repaired().await?;
    stage.judge_with(Allowed::default(), bad).await
}

const PAYLOAD: &str = r#"'{"aggregate": "bad", "n": 1}'"#;

pub async fn body(round: Round) -> Result<Outcome> {
    let payload = "jsonb_build_object('aggregate', 'bad', 'n', 1, 'filler', repeat('x', 5000))";
    let limit = "PGOUTBOX_AMQP__MAX_MESSAGE_BYTES";
    let row = ("payload", payload, "its body has");
    bad_row(round, &[(limit, "2KiB")], row, (limit, "1MiB")).await
}

pub async fn header(round: Round) -> Result<Outcome> {
    let values = format!("{PAYLOAD}, jsonb_build_object('large', repeat('x', 131000))");
    let none = ("PGOUTBOX_TABLES__0__COLUMNS__HEADERS", "");
    bad_row(round, &[], ("payload, headers", &values, "of one frame"), none).await
}

pub async fn property(round: Round) -> Result<Outcome> {
    let values = format!("{PAYLOAD}, repeat('ü', 128)");
    let other = ("PGOUTBOX_TABLES__0__ROUTING_KEY", "repaired");
    bad_row(round, &[], ("payload, topic", &values, "its routing_key has"), other).await
}
