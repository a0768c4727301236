//! What the files of `config` promise together.

mod properties;
mod reload;
mod shown;
mod sources;
mod tls;
mod urls;
mod wrong;

use std::path::PathBuf;

use super::{Config, Flags, Needs, Sources, load};

/// The least that a relay needs.
const BOTH: [(&str, &str); 2] = [
    ("DATABASE_URL", "postgres://app:dbpw@db.example/app"),
    ("AMQP_URL", "amqp://app:mqpw@mq.example"),
];

/// Sources to try things on; the file, where there is one, lives as long as this.
#[derive(Clone, Default)]
struct Try {
    sources: Sources,
    directory: Option<std::sync::Arc<tempfile::TempDir>>,
}

impl Try {
    /// Nothing but the two URLs.
    fn both() -> Self {
        Self::default().env(&BOTH)
    }

    fn env(mut self, pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(name, text)| (name.into(), text.into()));
        self.sources.env.extend(pairs);
        self
    }

    fn file(mut self, text: &str) -> Self {
        let path = self.path("pgoutbox.toml");
        std::fs::write(&path, text).unwrap();
        self.sources.default_files = vec![path];
        self
    }

    /// A path in the file's directory.
    fn path(&mut self, name: &str) -> PathBuf {
        let directory =
            self.directory.get_or_insert_with(|| std::sync::Arc::new(tempfile::tempdir().unwrap()));
        directory.path().join(name)
    }

    fn set(mut self, pair: &str) -> Self {
        self.sources.flags.set.push(pair.to_owned());
        self
    }

    fn flags(mut self, change: impl FnOnce(&mut Flags)) -> Self {
        change(&mut self.sources.flags);
        self
    }

    fn load(&self) -> Config {
        Config::load(&self.sources, Needs::ALL).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// The fault's text, the temporary directory taken out.
    fn fault(&self) -> String {
        self.fault_of(Needs::ALL)
    }

    fn fault_of(&self, needs: Needs) -> String {
        let fault = match load(&self.sources, needs) {
            Ok((_, explained)) => panic!("loaded:\n{}", explained.toml()),
            Err(fault) => fault.to_string(),
        };
        match &self.directory {
            Some(directory) => fault.replace(&format!("{}/", directory.path().display()), ""),
            None => fault,
        }
    }
}

/// Everything of a configuration, the secrets included.
fn fingerprint(config: &Config) -> String {
    let [audit, stream] =
        [&config.postgres.audit, &config.postgres.stream].map(|server| &server.password);
    let brokers: Vec<&str> = config.amqp.brokers.iter().map(|b| b.password.expose()).collect();
    let headers: Vec<&str> = config
        .otlp
        .iter()
        .flat_map(|otlp| &otlp.headers)
        .map(|(_, value)| value.expose())
        .collect();
    format!("{config:?} {} {} {brokers:?} {headers:?}", audit.expose(), stream.expose())
}

/// A key of a setting, with an index and a name where it has places for them.
fn key_of(setting: &super::settings::Setting) -> String {
    setting.key.replace('*', "0").replace('?', "name")
}
