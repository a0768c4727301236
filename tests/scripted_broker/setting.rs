//! One test's database, its broker, and the judgement of what came of its rows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use harness::corner::Corner;
use harness::fake_broker::{FakeBroker, Published, Script};
use harness::relay::{Pgoutbox, Relay};
use harness::{postgres, wait_until};

/// How long anything may take on a busy machine before the test has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Setting {
    pub broker: FakeBroker,
    pub client: tokio_postgres::Client,
    program: Pgoutbox,
    /// Its slot is dropped with it.
    _corner: Corner,
}

impl Setting {
    pub async fn start(script: impl Script) -> Result<Self> {
        Self::of(FakeBroker::start(script).await?).await
    }

    pub async fn of(broker: FakeBroker) -> Result<Self> {
        let corner = Corner::new().await?;
        let program = Pgoutbox::at(env!("CARGO_BIN_EXE_pgoutbox"))
            .env("DATABASE_URL", &corner.url)
            .env("AMQP_URL", broker.url())
            .env("PGOUTBOX_POSTGRES__SLOT", &corner.database);
        program.succeed(&["init", "--declare"]).await?;
        let client = postgres::connect(&corner.url).await?;
        Ok(Self { broker, client, program, _corner: corner })
    }

    /// One setting more, by its key in the file.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("PGOUTBOX_{}", key.replace('.', "__").to_uppercase());
        self.program = self.program.env(&name, value);
        self
    }

    pub fn run(&self) -> Result<Relay> {
        self.program.spawn(&["run"])
    }

    /// Commits rows with these numbers in one transaction, each the next of one of ten
    /// aggregates. Their ids say the numbers.
    pub async fn insert(&self, numbers: std::ops::RangeInclusive<i64>) -> Result<()> {
        let sql = "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, event_type, payload) \
             SELECT lpad(n::text, 32, '0')::uuid, 'order', n % 10, 'paid', '{}' \
               FROM generate_series($1::bigint, $2) n";
        self.client.execute(sql, &[numbers.start(), numbers.end()]).await?;
        Ok(())
    }

    /// The numbers of the rows that are marked, with the time of their mark.
    pub async fn marked(&self) -> Result<BTreeMap<i64, SystemTime>> {
        let sql = "SELECT ltrim(replace(id::text, '-', ''), '0')::bigint, relayed_at \
                     FROM outbox_messages WHERE relayed_at IS NOT NULL";
        let rows = self.client.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// One number that SQL gives.
    pub async fn count(&self, sql: &str) -> Result<i64> {
        Ok(self.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Waits until so many messages came, repeats counted.
    pub async fn came(&self, count: u64) -> Result<()> {
        wait_until(&format!("{count} messages"), PATIENCE, async || {
            let came = self.broker.published();
            ensure!(came >= count, "{came} came");
            Ok(true)
        })
        .await
    }

    /// Waits until so many rows are marked.
    pub async fn is_marked(&self, count: usize) -> Result<()> {
        wait_until(&format!("{count} marks"), PATIENCE, async || {
            let marked = self.marked().await?.len();
            ensure!(marked >= count, "{marked} are marked");
            Ok(true)
        })
        .await
    }

    /// Waits until rows 1 to `count` are marked, drains the relay, and judges: every one was
    /// published and acked, and marked only then; and the first copies came in order, of each
    /// aggregate, and of all where nothing was refused. Returns all that was published.
    pub async fn judge(&self, relay: &Relay, count: i64, is_refused: bool) -> Result<Vec<Copy>> {
        let rows = usize::try_from(count)?;
        self.is_marked(rows).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        let marked = self.marked().await?;
        let copies: Vec<Copy> =
            self.broker.kept(|kept| kept.iter().map(Copy::of).collect::<Result<_>>())?;
        let told = || format!("{}\n{}", summary(&copies), relay.log());
        for number in 1..=count {
            let taken = copies.iter().filter(|copy| copy.number == number);
            let acked = taken.filter_map(|copy| copy.taken).min();
            let acked = acked.with_context(|| format!("row {number} was lost: {}", told()))?;
            let relayed = marked.get(&number).context("a mark that is gone")?;
            // Postgres counts in whole microseconds.
            let early = acked.duration_since(*relayed).unwrap_or_default();
            ensure!(
                early < Duration::from_micros(1),
                "row {number} was marked {early:?} before its ack: {}",
                told()
            );
        }
        ensure!(copies.iter().all(|copy| copy.is_mandatory), "published without `mandatory`");
        let firsts = firsts(&copies);
        let is_rising = |numbers: &[i64]| numbers.is_sorted_by(|one, next| one < next);
        for aggregate in 0..10 {
            let own: Vec<i64> =
                firsts.iter().copied().filter(|number| number % 10 == aggregate).collect();
            ensure!(is_rising(&own), "aggregate {aggregate} came as {own:?}: {}", told());
        }
        ensure!(is_refused || is_rising(&firsts), "they came as {firsts:?}: {}", told());
        Ok(copies)
    }
}

/// A copy of a row's message that was published.
#[derive(Debug, Clone)]
pub struct Copy {
    pub connection: u64,
    pub number: i64,
    /// When the client was told that a queue took it.
    pub taken: Option<SystemTime>,
    is_mandatory: bool,
}

impl Copy {
    fn of(published: &Published) -> Result<Self> {
        let digits = published.id.replace('-', "");
        Ok(Self {
            connection: published.connection,
            number: digits.parse().with_context(|| published.id.clone())?,
            taken: published.acked.filter(|_| published.is_taken()),
            is_mandatory: published.is_mandatory,
        })
    }
}

/// The first copy of each row, in their order.
pub fn firsts(copies: &[Copy]) -> Vec<i64> {
    let mut seen = std::collections::BTreeSet::new();
    copies.iter().map(|copy| copy.number).filter(|number| seen.insert(*number)).collect()
}

/// The numbers that came on one connection, in their order.
pub fn on_connection(copies: &[Copy], connection: u64) -> Vec<i64> {
    let on_it = copies.iter().filter(|copy| copy.connection == connection);
    on_it.map(|copy| copy.number).collect()
}

/// How often a row was published.
pub fn times(copies: &[Copy], number: i64) -> usize {
    copies.iter().filter(|copy| copy.number == number).count()
}

fn summary(copies: &[Copy]) -> String {
    let open = copies.iter().filter(|copy| copy.taken.is_none());
    let open: Vec<String> =
        open.map(|copy| format!("{}:{}", copy.connection, copy.number)).collect();
    format!("{} copies, of them without an ack (connection:row) {}", copies.len(), open.join(", "))
}
