//! The relay's own defaults, as its settings have them.

use std::sync::LazyLock;

use pgoutbox::testing::config::{Config, Needs, Sources, Table};

/// The configuration where nothing is set.
pub fn config() -> Config {
    static DEFAULTS: LazyLock<Config> = LazyLock::new(|| {
        Config::load(&Sources::default(), Needs::NONE).expect("the defaults are valid")
    });
    DEFAULTS.clone()
}

/// The outbox table where nothing is set.
pub fn table() -> Table {
    config().tables.remove(0)
}
