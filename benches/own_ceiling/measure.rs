//! One case: a backlog is committed, the relay drains it into a broker that acks at once.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::fake_broker::{AckAtOnce, FakeBroker};
use harness::postgres::Postgres;
use harness::relay::{Pgoutbox, Relay};
use harness::wait_closely;
use tokio_postgres::Client;

/// However busy the machine is.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is drained.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub events: u64,
    /// Rows of each transaction.
    pub rows: u64,
    /// `audit.mode`.
    pub audit: &'static str,
}

/// Bytes of each payload.
pub const PAYLOAD_BYTES: i32 = 500;

const FILL: &str = "
    CREATE PROCEDURE fill(transactions bigint, size bigint, body jsonb) LANGUAGE plpgsql AS $$
    BEGIN
        FOR t IN 1 .. transactions LOOP
            INSERT INTO outbox_messages (aggregate_type, aggregate_id, event_type, payload)
            SELECT 'order', 'order-' || (t * size + r) % 1000, 'paid', body
              FROM generate_series(1, size) AS r;
            COMMIT;
        END LOOP;
    END $$";

/// What it took, per event but for the rate.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub events_per_second: f64,
    /// CPU time of the relay, all of its threads.
    pub relay_us: f64,
    /// CPU time of the server process that reads the WAL for it.
    pub walsender_us: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events_per_second, relay_us, walsender_us } = self;
        write!(f, "{events_per_second:>9.0} {relay_us:>18.1} {walsender_us:>22.1}")
    }
}

/// What was used up to a moment.
struct Meter {
    at: Instant,
    published: u64,
    relay: Duration,
    walsender: Duration,
}

impl Meter {
    fn read(broker: &FakeBroker, relay: &Relay, walsender: u32) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            published: broker.published(),
            relay: relay.cpu()?,
            walsender: cpu_of_one_thread(walsender)?,
        })
    }

    fn until(&self, end: &Self) -> Figures {
        let events = (end.published - self.published) as f64;
        let per_event = |start: Duration, end: Duration| (end - start).as_secs_f64() * 1e6 / events;
        Figures {
            events_per_second: events / (end.at - self.at).as_secs_f64(),
            relay_us: per_event(self.relay, end.relay),
            walsender_us: per_event(self.walsender, end.walsender),
        }
    }
}

/// Measures one case in a database of its own.
pub async fn measure(postgres: &Postgres, program: &str, case: Case) -> Result<Figures> {
    let database = postgres.create_database().await?;
    let broker = FakeBroker::start(AckAtOnce::default()).await?;
    let program = Pgoutbox::at(program)
        .env("DATABASE_URL", postgres.url(&database))
        .env("AMQP_URL", broker.url())
        .env("PGOUTBOX_AUDIT__MODE", case.audit)
        .env("PGOUTBOX_POSTGRES__SLOT", &database);
    program.succeed(&["init", "--declare"]).await?;
    let client = postgres.connect(&database).await?;
    let committed = fill(&client, case).await?;

    let relay = program.spawn(&["run"])?;
    let come = async |count: u64| {
        let what = format!("{count} messages");
        let came = wait_closely(&what, PATIENCE, async || Ok(broker.published() >= count)).await;
        came.with_context(|| relay.log())
    };
    come(1).await?;
    let walsender = postgres.walsender_pid(&database).await?.context("nobody reads the slot")?;
    let start = Meter::read(&broker, &relay, walsender)?;
    come(committed).await?;
    let end = Meter::read(&broker, &relay, walsender)?;
    relay.drain(PATIENCE).await?;
    let published = broker.published();
    ensure!(published == committed, "{committed} rows, and {published} messages");
    if case.audit == "update" {
        let sql = "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NULL";
        let unmarked: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
        ensure!(unmarked == 0, "{unmarked} rows are not marked");
    }
    // It would keep the WAL of the next case.
    client.execute("SELECT pg_drop_replication_slot($1)", &[&database]).await?;
    Ok(start.until(&end))
}

async fn fill(client: &Client, case: Case) -> Result<u64> {
    client.batch_execute(FILL).await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    let transactions = case.events / case.rows;
    let body = format!(
        "jsonb_build_object('pad', repeat('x', {}))",
        PAYLOAD_BYTES - i32::try_from("{\"pad\": \"\"}".len())?
    );
    client.batch_execute(&format!("CALL fill({transactions}, {}, {body})", case.rows)).await?;
    // With its WAL, that of all before it comes to the disk, from where it is sent.
    client.batch_execute("SET synchronous_commit = on; CREATE TABLE filled ()").await?;
    Ok(transactions * case.rows)
}

/// To the nanosecond, where the clock ticks of the other figure are 10 ms.
fn cpu_of_one_thread(pid: u32) -> Result<Duration> {
    let told = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanoseconds = told.split_whitespace().next().context("no time in schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
