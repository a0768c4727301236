//! From sources to a checked configuration.

use super::amqp::amqp;
use super::contradiction;
use super::effective::EffectiveValues;
use super::explain::SettingsReport;
use super::otlp::otlp;
use super::postgres::Assembly;
use super::preset;
use super::problem::Problems;
use super::shards;
use super::source::{Environment, Sources, collect};
use super::tables::{self, queues};
use super::upkeep::{guard, prune};
use super::values::Values;
use super::{
    Audit, Config, Declare, Http, Log, OnSlotLoss, Parking, Reconcile, Renewal, Secret, Session,
    Table, WindowSettings,
};
use crate::error::Fault;

/// Which servers a command cannot do without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The database must be named. Where it is not needed and not named, `postgres.audit`
    /// holds libpq's defaults.
    pub postgres: bool,
    /// A broker must be named. Where it is not needed and not named, `amqp.brokers` is empty.
    pub amqp: bool,
    /// Where the outbox is spread over several relays, one of them must be named.
    pub shard: bool,
}

impl Needs {
    /// Both: `run`, `init --declare`.
    pub const ALL: Self = Self { postgres: true, amqp: true, shard: false };
    /// The database only: `init`, `uninstall`, and what looks at the events of all shards, such as `parked`.
    pub const POSTGRES: Self = Self { postgres: true, amqp: false, shard: false };
    /// Both, and which relay it is about: `check`.
    pub const RELAY: Self = Self { shard: true, ..Self::ALL };
    /// The database, and the relay that is asked about: `status`, `verify`.
    pub const OF_RELAY: Self = Self { shard: true, ..Self::POSTGRES };
    /// None: `schema`, `config`.
    pub const NONE: Self = Self { postgres: false, amqp: false, shard: false };
}

impl Config {
    fn renew_by(&mut self, renewal: &Renewal) {
        self.postgres.renewal.clone_from(renewal);
        self.amqp.renewal.clone_from(renewal);
        self.http.renewal.clone_from(renewal);
        if let Some(otlp) = &mut self.otlp {
            otlp.renewal.clone_from(renewal);
        }
    }

    /// Reads and checks the whole configuration. Reads files (the configuration, secrets,
    /// certificates) and connects to nothing.
    ///
    /// # Errors
    /// One fault of class [`crate::error::Class::Usage`] that lists everything found wrong,
    /// each with its place, its key and how to fix it; it never holds a secret.
    pub fn load(sources: &Sources, needs: Needs) -> Result<Self, Fault> {
        load(sources, needs).map(|(config, _)| config)
    }
}

/// [`Config::load`], with where each value came from.
///
/// # Errors
/// The same fault as of [`Config::load`]: all that is wrong, in one.
pub fn load(sources: &Sources, needs: Needs) -> Result<(Config, SettingsReport), Fault> {
    let mut problems = Problems::default();
    let mut collected = collect(sources, &mut problems);
    preset::apply(&mut collected);
    let renewal = Renewal::of(&collected.found, sources);
    let values = Values::read(collected, &mut problems);
    let mut shown = EffectiveValues::default();
    let mut config = assemble(sources, needs, &values, &mut problems, &mut shown);
    config.renew_by(&renewal);
    contradiction::check(&config, &values, &mut problems);
    config = shards::chosen(config, needs.shard, &values, &mut problems, &mut shown);
    let explained = SettingsReport::new(&config, &values, &shown);
    problems.or((config, explained))
}

pub(crate) fn assemble(
    sources: &Sources,
    needs: Needs,
    values: &Values,
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> Config {
    let env = Environment::new(sources);
    let mut postgres = Assembly { values, env: &env, problems, shown }.postgres(needs.postgres);
    let amqp = amqp(values, &postgres.slot, needs.amqp, problems, shown);
    let text = |key: &str| values.text(key).unwrap_or_default();
    let [tables, messages] = tables::sources(values, amqp.brokers.first(), problems, shown);
    let sources = tables.iter().chain(&messages);
    postgres.on_slot_loss = on_slot_loss(values, sources, postgres.on_slot_loss, shown);
    Config {
        postgres,
        amqp,
        tables,
        messages,
        patterns: Vec::new(),
        found: Vec::new(),
        window: WindowSettings {
            messages: values.number("window.messages"),
            is_adaptive: text("window.sizing") == "adaptive",
            bytes: values.number("window.bytes"),
            is_strict: text("window.ordering") == "strict",
        },
        audit: Audit {
            batch: values.number("audit.batch"),
            linger: values.span("audit.linger"),
            hold: values.span("audit.hold"),
            give_up: values.span("audit.give_up"),
        },
        parking: Parking {
            max_attempts: u32::try_from(values.number("parking.max_attempts")).unwrap_or(u32::MAX),
            backoff_min: values.span("parking.backoff_min"),
            backoff_max: values.span("parking.backoff_max"),
            limit: values.number("parking.limit"),
            period: values.span("parking.period"),
            poll_interval: values.span("parking.poll_interval"),
        },
        reconcile: Reconcile {
            interval: values.span("reconcile.interval"),
            age: values.span("reconcile.age"),
            republishes: values.flag("reconcile.republish"),
        },
        session: Session {
            backoff_min: values.span("session.backoff_min"),
            backoff_max: values.span("session.backoff_max"),
            drain_timeout: values.span("session.drain_timeout"),
        },
        prune: prune(values),
        guard: guard(values),
        http: Http {
            address: values.text("http.address").and_then(|address| address.parse().ok()),
            token: values.text("http.token").map(Secret::new),
            token_place: values.place("http.token"),
            renewal: Renewal::default(),
        },
        otlp: otlp(values, problems),
        log: log(values),
        declare: Declare {
            exchange_type: text("declare.exchange_type"),
            queues: queues(values, problems),
        },
    }
}

fn log(values: &Values) -> Log {
    let text = |key: &str| values.text(key).unwrap_or_default();
    Log {
        level: text("log.level"),
        is_json: text("log.format") == "json",
        has_events: values.flag("log.events"),
        events_one_in: values.number("log.events_one_in"),
    }
}

/// What a table without marks lost with its slot, or messages did, no list brings back: only where somebody
/// says so does the relay go on.
fn on_slot_loss<'a>(
    values: &Values,
    mut sources: impl Iterator<Item = &'a Table>,
    said: OnSlotLoss,
    shown: &mut EffectiveValues,
) -> OnSlotLoss {
    let key = "postgres.on_slot_loss";
    let unmarked = sources.position(|table| !table.has_marks());
    let Some(unmarked) = unmarked.filter(|_| !values.is_set(key)) else { return said };
    let own = [format!("tables.{unmarked}.audit.mode"), "messages.0.prefix".to_owned()];
    let own = own.iter().find(|own| values.is_set(own));
    let mode = own.map_or("audit.mode", String::as_str);
    shown.set(key, "halt", format!("{mode}: {}", values.origin(mode)));
    OnSlotLoss::Halt
}
