//! What a test begins with, said in one place: settings, tables, rows that are there before.
//!
//! ```ignore
//! let (setting, consumer, relay) = Scenario::with(QUICK).tables(NUMBERED).run("good").await?;
//! setting.insert(event(1, "good").of("a")).await?;
//! ```

use anyhow::Result;

use crate::consumer::Consumer;
use crate::relay::Relay;
use crate::setting::Setting;

/// Sessions that are tried again at once, and retries of parked events only where they are asked for.
pub const QUICK: Settings = &[
    ("session.backoff_min", "50ms"),
    ("session.backoff_max", "200ms"),
    ("parking.backoff_min", "1h"),
    ("parking.backoff_max", "1h"),
    ("audit.hold", "1s"),
    ("audit.give_up", "1s"),
    ("reconcile.age", "1s"),
];

/// Settings by their keys in the file.
pub type Settings = &'static [(&'static str, &'static str)];

/// On the servers that all tests share, with a database and a virtual host of its own.
#[derive(Clone, Debug, Default)]
#[must_use = "it is made by `setting` or `run`"]
pub struct Scenario {
    settings: Vec<(String, String)>,
    before: String,
    after: String,
}

impl Scenario {
    pub fn with(settings: Settings) -> Self {
        settings.iter().fold(Self::default(), |scenario, (key, value)| scenario.set(key, value))
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Retries of parked events after this long, first and later.
    pub fn retries(self, pause: &str) -> Self {
        self.set("parking.backoff_min", pause).set("parking.backoff_max", pause)
    }

    /// SQL before `init`: outboxes that are there already. Without any, `init` makes one.
    pub fn tables(mut self, sql: &str) -> Self {
        self.before += sql;
        self.before += ";";
        self
    }

    /// SQL after `init`.
    pub fn sql(mut self, sql: &str) -> Self {
        self.after += sql;
        self.after += ";";
        self
    }

    pub async fn setting(self) -> Result<Setting> {
        let bare = Setting::bare().await?;
        let setting =
            self.settings.iter().fold(bare, |setting, (key, value)| setting.set(key, value));
        if !self.before.is_empty() {
            setting.sql(&self.before).await?;
        }
        setting.init().await?;
        if !self.after.is_empty() {
            setting.sql(&self.after).await?;
        }
        Ok(setting)
    }

    /// A queue that has what is published under this binding, and a relay that begins.
    pub async fn run(self, binding: &str) -> Result<(Setting, Consumer, Relay)> {
        let setting = self.setting().await?;
        let consumer = setting.bound(binding).await?;
        let relay = setting.run()?;
        Ok((setting, consumer, relay))
    }
}
