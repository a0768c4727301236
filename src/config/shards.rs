//! The outbox spread over several relays: each has a slot, a publication and a share of the aggregates.

use super::effective::EffectiveValues;
use super::problem::Problems;
use super::values::Values;
use super::{Config, Needs, Postgres, Sources, Table};

/// Longest name of Postgres.
const NAME_BYTES: usize = 63;

/// The aggregates of one relay: those whose hash leaves this rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// Which, from 0.
    pub number: u16,
    /// Of how many.
    pub of: u16,
}

/// How the outbox is spread, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    /// Over how many relays; 1: over none.
    pub of: u16,
    /// The name that the slots are called by, and that of the publications.
    pub slot: String,
    /// Likewise.
    pub publication: String,
    /// The relay takes any share that nobody has.
    pub is_any: bool,
    /// The share that is named.
    pub named: Option<u16>,
}

impl Shards {
    /// Spread otherwise.
    pub(crate) fn spread(&self, of: u16) -> Self {
        Self { of, ..self.clone() }
    }

    /// All shares; none where there is one relay for all.
    pub(crate) fn shares(&self) -> impl Iterator<Item = Share> + use<> {
        let of = self.of;
        (0..of).filter(move |_| of > 1).map(move |number| Share { number, of })
    }

    /// The names of all slots, in the order of the shares.
    pub(crate) fn slots(&self) -> Vec<String> {
        match self.of {
            ..=1 => vec![self.slot.clone()],
            _ => self.shares().map(|share| share.name(&self.slot)).collect(),
        }
    }
}

impl Share {
    /// The name of what is of this share alone.
    pub(crate) fn name(self, of_all: &str) -> String {
        format!("{of_all}_{}of{}", self.number, self.of)
    }

    /// What a name may be longer by.
    fn suffix_bytes(of: u16) -> usize {
        Self { number: of.saturating_sub(1), of }.name("").len()
    }
}

impl Config {
    /// The configuration of the relay that has this share; of all where it is none.
    pub(crate) fn of_share(&self, share: Option<Share>) -> Self {
        let mut config = self.clone();
        let shards = &self.postgres.shards;
        let name = |of_all: &str| share.map_or_else(|| of_all.to_owned(), |it| it.name(of_all));
        let (slot, publication) = (name(&shards.slot), name(&shards.publication));
        let was = self.postgres.slot.as_str();
        if config.postgres.application_name == application_name(was) {
            config.postgres.application_name = application_name(&slot);
        }
        if config.amqp.connection_name == connection_name(was) {
            config.amqp.connection_name = connection_name(&slot);
        }
        config.postgres = Postgres { slot, publication, share, ..config.postgres };
        for table in
            config.tables.iter_mut().chain(&mut config.messages).chain(&mut config.patterns)
        {
            table.share = share;
        }
        config
    }

    /// The configurations of all relays that the outbox is spread over; where it is spread over none, or a share
    /// is chosen, this one.
    pub(crate) fn of_each_share(&self) -> Vec<Self> {
        if self.postgres.share.is_some() || self.postgres.shards.of == 1 {
            return vec![self.clone()];
        }
        self.postgres.shards.shares().map(|share| self.of_share(Some(share))).collect()
    }

    /// The slots that it is about: one where a share is chosen, or there is none to choose.
    pub(crate) fn slots(&self) -> Vec<String> {
        match self.is_of_any_share() {
            true => self.postgres.shards.slots(),
            false => vec![self.postgres.slot.clone()],
        }
    }

    /// The same outbox, spread over so many.
    pub(crate) fn spread(&self, of: u16) -> Self {
        let mut config = self.of_share(None);
        config.postgres.shards = self.postgres.shards.spread(of);
        config
    }

    /// It is spread, and no share is chosen.
    pub(crate) fn is_of_any_share(&self) -> bool {
        self.postgres.shards.of > 1 && self.postgres.share.is_none()
    }
}

impl Sources {
    /// The same for each share; `None` where the outbox is not spread, a share is chosen, or something else is wrong
    /// with them.
    pub(crate) fn of_each_share(&self) -> Option<Vec<Self>> {
        let config = Config::load(self, Needs::NONE).ok().filter(Config::is_of_any_share)?;
        let share = |share: Share| {
            let mut sources = self.clone();
            sources.flags.shard = Some(share.number.to_string());
            sources
        };
        Some(config.postgres.shards.shares().map(share).collect())
    }
}

impl Table {
    /// The column whose text says whose share a row is: that of the aggregate's id. Where the table has none
    /// there is no order to keep, and the row's own id does.
    pub(crate) fn share_column(&self, has: impl Fn(&str) -> bool) -> &str {
        let aggregate_id = self.columns.aggregate_id.name.as_str();
        match !aggregate_id.is_empty() && has(aggregate_id) {
            true => aggregate_id,
            false => &self.columns.id.name,
        }
    }
}

/// By which the broker shows a relay, where no setting says it.
pub(super) fn connection_name(slot: &str) -> String {
    format!("pgoutbox/{slot}")
}

/// By which Postgres does.
pub(super) fn application_name(slot: &str) -> String {
    connection_name(slot).chars().take(NAME_BYTES).collect()
}

/// The configuration of the share that is chosen.
pub(super) fn chosen(
    config: Config,
    needs_one: bool,
    values: &Values,
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> Config {
    const KEY: &str = "postgres.shard";
    let shards = &config.postgres.shards;
    let of = shards.of;
    if let Some(key) = too_long(shards) {
        let most = NAME_BYTES - Share::suffix_bytes(of);
        let what = format!("has more than {most} bytes, and names of {of} shards are made of it");
        problems.add(values.origin(key), key, what, "choose a shorter one");
    }
    let number = values.size(KEY).and_then(|number| u16::try_from(number).ok());
    let mut config = config;
    config.postgres.shards.named = number;
    let Some(number) = number else {
        if needs_one && of > 1 && !values.is_bad(KEY) {
            let what = format!("is not set, and the outbox is spread over {of} relays");
            let hint = format!("say which of them: --shard 0 up to --shard {}", of - 1);
            problems.add("", KEY, what, hint);
        }
        config.postgres.shards.is_any = of > 1;
        return config;
    };
    // Where one relay has all of it, none is to be chosen.
    if of == 1 {
        return config;
    }
    if number >= of {
        let what = format!("is {number}, and postgres.shards is {of}");
        let hint = format!("choose one from 0 to {}", of - 1);
        problems.add(values.origin(KEY), KEY, what, hint);
        return config;
    }
    let own = config.of_share(Some(Share { number, of }));
    if own.postgres.application_name != config.postgres.application_name {
        shown.set("postgres.application_name", &*own.postgres.application_name, "default");
    }
    if own.amqp.connection_name != config.amqp.connection_name {
        shown.set("amqp.connection_name", &*own.amqp.connection_name, "default");
    }
    own
}

/// Which of the two names is too long to be told apart for each of so many.
pub(super) fn too_long(shards: &Shards) -> Option<&'static str> {
    let room = NAME_BYTES.saturating_sub(Share::suffix_bytes(shards.of));
    match () {
        () if shards.of <= 1 => None,
        () if shards.slot.len() > room => Some("postgres.slot"),
        () if shards.publication.len() > room => Some("postgres.publication"),
        () => None,
    }
}
