//! One round: a relay under load, a fault, its repair, and the judgement.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::checker::{self, Verdict};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_until;
use harness::workload::{self, Ledger, Workload};

use harness::setting::{Setting, steady};

/// What one lost channel may repeat: the window and one batch of marks, by default.
pub const REPEATS_PER_CHANNEL: usize = 1_500;
/// How soon the relay must say that something is wrong.
const FELT_WITHIN: Duration = Duration::from_secs(30);

/// What a scenario is given. Its choices come from this thread's generator, which was set to
/// the seed.
#[derive(Clone)]
pub struct Round {
    /// At full size, for `make chaos`.
    pub is_long: bool,
    /// The logs of its relays: they stay until the process ends.
    logs: Rc<RefCell<Vec<PathBuf>>>,
    /// What a server said of it.
    notes: Rc<RefCell<String>>,
}

impl Round {
    pub fn new(is_long: bool) -> Self {
        Self { is_long, logs: Rc::default(), notes: Rc::default() }
    }

    pub fn logs(&self) -> Vec<PathBuf> {
        self.logs.borrow().clone()
    }

    /// How long anything may take on a busy machine before it has failed.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(if self.is_long { 180 } else { 60 })
    }

    /// So many faults in this round.
    pub fn faults(&self) -> usize {
        if self.is_long { fastrand::usize(1..=4) } else { 1 }
    }

    fn run(&self, setting: &Setting) -> Result<Relay> {
        let relay = setting.run()?;
        self.logs.borrow_mut().push(relay.log_file().to_owned());
        Ok(relay)
    }

    /// Of all relays of this round.
    pub fn log(&self) -> String {
        let logs = self.logs();
        logs.iter().filter_map(|log| std::fs::read_to_string(log).ok()).collect()
    }

    /// A server's log, for who looks into a failed round.
    pub fn note(&self, log: &str) {
        self.notes.borrow_mut().push_str(log);
    }

    /// What is kept of a failed round.
    pub fn all(&self) -> String {
        self.log() + &self.notes.borrow()
    }

    /// Channels opened so far: each session's first, and those it opened after the broker had
    /// closed one.
    fn channels(&self) -> usize {
        let opens =
            |line: &str| line.contains(" running ") || line.contains("RabbitMQ closed the channel");
        self.log().lines().filter(|line| opens(line)).count()
    }
}

/// Not run, and why: the machine lacks something. Told in the table.
#[derive(Debug)]
pub struct Skipped(pub String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// How a round ended.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// What was promised and not kept.
    pub broken: Vec<String>,
    /// The longest, from a repair until all that was committed by then had come.
    pub recovery: Duration,
}

/// What a scenario may do beyond what every scenario may.
#[derive(Clone, Copy, Default)]
pub struct Allowed {
    /// The relay forgets and Postgres forgets: there is no bound worth a name.
    pub any_repeats: bool,
    /// Without strict ordering a nack or a return lets later events of the window pass.
    pub overtaking: bool,
}

/// A relay under load.
pub struct Stage {
    pub setting: Setting,
    pub consumer: Consumer,
    pub relay: Relay,
    pub load: Workload,
    round: Round,
    /// Committed by loads before this one.
    before: usize,
    /// Faults that the relay said nothing of.
    unfelt: Vec<String>,
    recovery: Duration,
}

/// Faults are found out soon, and tried again soon.
pub fn quick(setting: &mut Setting) {
    for (name, value) in [
        ("PGOUTBOX_POSTGRES__WAL_SENDER_TIMEOUT", "2s"),
        ("PGOUTBOX_POSTGRES__CONNECT_TIMEOUT", "2s"),
        ("PGOUTBOX_AMQP__CONNECT_TIMEOUT", "2s"),
        ("PGOUTBOX_AMQP__HEARTBEAT", "2s"),
        ("PGOUTBOX_AMQP__CONFIRM_TIMEOUT", "4s"),
        ("PGOUTBOX_SESSION__BACKOFF_MIN", "20ms"),
        ("PGOUTBOX_SESSION__BACKOFF_MAX", "200ms"),
    ] {
        setting.env(name, value);
    }
}

impl Stage {
    pub async fn start(round: &Round, setting: Setting) -> Result<Self> {
        let consumer = setting.consumer().await?;
        Self::with(round, setting, consumer).await
    }

    /// With a consumer of the scenario's own.
    pub async fn with(round: &Round, mut setting: Setting, consumer: Consumer) -> Result<Self> {
        quick(&mut setting);
        let relay = round.run(&setting)?;
        let load = Workload::start(&setting.database_url, steady()).await?;
        let round = round.clone();
        let stage = Self {
            setting,
            consumer,
            relay,
            load,
            round,
            before: 0,
            unfelt: Vec::new(),
            recovery: Duration::ZERO,
        };
        stage.flows("at the start").await?;
        Ok(stage)
    }

    /// New events come.
    async fn flows(&self, when: &str) -> Result<()> {
        let wanted = self.before + self.load.committed() + 1;
        self.consumer.wait_distinct(wanted, self.round.patience()).await.context(when.to_owned())
    }

    /// A random moment under load: up to so many events later.
    pub async fn moment(&self) -> Result<()> {
        let wanted = self.consumer.distinct() + fastrand::usize(0..300);
        self.consumer.wait_distinct(wanted, self.round.patience()).await.context("a moment")
    }

    /// A random while in which nothing may come: up to so many commits later.
    pub async fn while_committing(&self) -> Result<()> {
        let wanted = self.load.committed() + fastrand::usize(1..400);
        wait_until("more commits", self.round.patience(), async || {
            anyhow::ensure!(!self.load.is_over(), "the writers have ended");
            Ok(self.load.committed() >= wanted)
        })
        .await
    }

    /// Sees that the fault was felt: the relay says one of these words behind so many lines of
    /// its log. If it does not, the round is broken, and judged all the same.
    pub async fn felt(&mut self, words: &[&str], since: usize) {
        let what = format!("one of {words:?} in the log");
        let felt = wait_until(&what, FELT_WITHIN, async || {
            let log = self.round.log();
            Ok(log.lines().skip(since).any(|line| words.iter().any(|word| line.contains(word))))
        });
        if let Err(error) = felt.await {
            self.unfelt.push(format!("not felt: {error:#}"));
        }
    }

    /// As [`felt`](Self::felt), where events are parked over it with these words: the log says so of the first few alone.
    pub async fn parks(&mut self, words: &str) {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM pgoutbox.parked WHERE state = 'parked' AND last_error LIKE '%{words}%')"
        );
        if let Err(error) = self.setting.until(&format!("events parked by {words:?}"), &sql).await {
            self.unfelt.push(format!("not felt: {error:#}"));
        }
    }

    /// Lines logged so far.
    pub fn lines(&self) -> usize {
        self.round.log().lines().count()
    }

    /// A relay where there is none any more, such as after a kill.
    pub fn run(&mut self) -> Result<()> {
        self.relay = self.round.run(&self.setting)?;
        Ok(())
    }

    /// Load where the setting is now.
    pub async fn load_again(&mut self, before: &Ledger) -> Result<()> {
        self.before += before.committed.len();
        self.load = Workload::start(&self.setting.database_url, steady()).await?;
        Ok(())
    }

    /// Sees all that was committed by now come, and notes how long that took.
    pub async fn repaired(&mut self) -> Result<()> {
        let since = Instant::now();
        self.flows("after the hint").await?;
        self.recovery = self.recovery.max(since.elapsed());
        Ok(())
    }

    /// Ends the load and judges.
    pub async fn judge(self, allowed: Allowed) -> Result<Outcome> {
        self.judge_with(allowed, Ledger::default()).await
    }

    /// With what was committed before this stage's own load.
    pub async fn judge_with(mut self, allowed: Allowed, earlier: Ledger) -> Result<Outcome> {
        self.load.stop();
        let mut ledger = self.load.finish().await?;
        ledger.committed.extend(earlier.committed);
        ledger.rolled_back.extend(earlier.rolled_back);
        self.judge_ledger(allowed, &ledger).await
    }

    async fn judge_ledger(self, allowed: Allowed, ledger: &Ledger) -> Result<Outcome> {
        let patience = self.round.patience();
        let mut broken = self.unfelt.clone();
        let mut note = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                broken.push(format!("{what}: {error:#}"));
            }
        };
        note("lost", self.consumer.wait_distinct(ledger.committed.len(), patience).await);
        note("unmarked", self.all_marked(patience).await);
        note("slot", reaches_the_end(&self.setting, patience).await);
        note("drain", self.relay.drain(patience).await);
        let unmarked = self.setting.unmarked().await?;
        let mut verdict = checker::check(ledger, &self.consumer.finish(), unmarked);
        let channels = self.round.channels().max(1);
        let most = if allowed.any_repeats {
            usize::MAX
        } else {
            // A channel that ends, alone or with its session, is the only reason for a repeat.
            (channels - 1) * REPEATS_PER_CHANNEL
        };
        let out_of_order = verdict.out_of_order;
        if allowed.overtaking {
            verdict.out_of_order = 0;
        }
        broken.extend(verdict.broken(most));
        verdict.out_of_order = out_of_order;
        Ok(Outcome { verdict, broken, recovery: self.recovery })
    }

    async fn all_marked(&self, patience: Duration) -> Result<()> {
        wait_until(
            "all rows are marked",
            patience,
            async || Ok(self.setting.unmarked().await? == 0),
        )
        .await
    }
}

/// Of a scenario that has no load but rows of its own.
pub async fn judge_rows(
    round: &Round,
    setting: Setting,
    consumer: Consumer,
    relay: Relay,
    ledger: &Ledger,
    recovery: Duration,
) -> Result<Outcome> {
    let none = workload::Options { until: workload::Until::Transactions(0), ..steady() };
    let load = Workload::start(&setting.database_url, none).await?;
    let round = round.clone();
    let stage =
        Stage { setting, consumer, relay, load, round, before: 0, unfelt: Vec::new(), recovery };
    stage.judge_ledger(Allowed::default(), ledger).await
}

/// The slot passes where the WAL ends now.
pub async fn reaches_the_end(setting: &Setting, patience: Duration) -> Result<()> {
    let client = setting.client().await?;
    let end: String =
        client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.try_get(0)?;
    let sql = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2";
    wait_until(&format!("the slot to pass {end}"), patience, async || {
        Ok(client.query_one(sql, &[&end, &setting.database]).await?.try_get(0)?)
    })
    .await
}

/// A random outage: how long it lasts is the fault's own property, and nothing is waited for.
pub async fn outage(most: Duration) {
    tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
}

/// Makes a relay in this round, for scenarios without a stage.
pub fn relay(round: &Round, setting: &Setting) -> Result<Relay> {
    round.run(setting)
}
