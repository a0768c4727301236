//! Secrets that stand in files of their own are read again at each login: anyone who puts a new one
//! there (Kubernetes, Vault) sends no signal.
//!
//! What else stands in a configuration is not looked at: a file that is just being edited has no
//! part in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::effective::EffectiveValues;
use super::load::assemble;
use super::origin::{SourceValue, SourceValues, is_regular, secret_file};
use super::problem::Problems;
use super::raw::Raw;
use super::source::Sources;
use super::values::Values;
use super::{Amqp, Broker, Config, Http, Needs, Otlp, Postgres, Secret, Server};

use crate::within::in_time;

/// How long files may take. On a network they may hang, and a login does not wait for that.
const PATIENCE: Duration = Duration::from_secs(2);
/// The one secret that has a file and is not a setting.
const PGPASSWORD_FILE: &str = "PGPASSWORD_FILE";

/// Where a secret stands: for people, and to know whether it can be read again. It is no part of
/// what a configuration says, so each is equal to any other.
#[derive(Clone, Default)]
pub struct Place {
    /// The setting, variable or flag.
    pub(crate) name: String,
    /// The file that it names, if the secret is in one.
    pub(crate) file: Option<PathBuf>,
}

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => {
                write!(f, "{} ({}), which is read again at each login", file.display(), self.name)
            }
            None => f.write_str(&self.name),
        }
    }
}

/// How the secrets of a configuration are read again. As [`Place`], equal to any other.
#[derive(Clone, Default)]
pub struct Renewal(Option<Arc<Recipe>>);

impl PartialEq for Renewal {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Renewal {}

// By hand: what was found holds secrets.
impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Renewal").field(&self.0.is_some()).finish()
    }
}

struct Recipe {
    found: BTreeMap<String, SourceValue>,
    env: BTreeMap<OsString, OsString>,
    /// One that hangs is enough.
    turn: Arc<Semaphore>,
}

impl Renewal {
    /// Of what a configuration was made of.
    pub(crate) fn of(found: &BTreeMap<String, SourceValue>, sources: &Sources) -> Self {
        let file = OsString::from(PGPASSWORD_FILE);
        let mut env = sources.env.clone();
        let password_file = env.get(&file).map(PathBuf::from).filter(|path| is_regular(path));
        // A pipe is read once.
        if password_file.is_none() {
            env.remove(&file);
        }
        let is_in_a_file = found.values().any(|found| found.file.is_some());
        if !is_in_a_file && password_file.is_none() {
            return Self::default();
        }
        let turn = Arc::new(Semaphore::new(1));
        Self(Some(Arc::new(Recipe { found: found.clone(), env, turn })))
    }

    /// The configuration with the secrets as they are now; `None` where none is in a file, and
    /// where the files do not answer.
    async fn read(&self) -> Option<Config> {
        let recipe = self.0.clone()?;
        let reading = async {
            let turn = recipe.turn.clone().acquire_owned().await.ok()?;
            let (told, read) = oneshot::channel();
            // Of its own: a runtime waits for its threads at its end, however long those hang.
            let reading = move || {
                let _ = told.send(recipe.read());
                drop(turn);
            };
            thread::Builder::new().name("secrets".to_owned()).spawn(reading).ok()?;
            read.await.ok()
        };
        in_time(PATIENCE, reading).await?
    }
}

impl Recipe {
    fn read(&self) -> Config {
        let mut found = self.found.clone();
        for found in found.values_mut() {
            // One that is being written, or is gone, leaves what was read before.
            if let Some(text) = found.file.as_deref().and_then(|file| secret_file(file).ok()) {
                found.raw = Raw::Untyped(text);
            }
        }
        let sources = Sources { env: self.env.clone(), ..Sources::default() };
        // Nobody is there to be told; what cannot be read is of another server, and not taken.
        let (mut problems, mut shown) = (Problems::default(), EffectiveValues::default());
        let values = Values::read(SourceValues { found, bad: Vec::new() }, &mut problems);
        assemble(&sources, Needs::NONE, &values, &mut problems, &mut shown)
    }
}

impl Config {
    /// With the logins to Postgres as the files have them now: a session also looks at its roles.
    pub(crate) async fn renewed(self: &Arc<Self>) -> Arc<Self> {
        let postgres = self.postgres.renewed().await;
        match postgres == self.postgres {
            true => Arc::clone(self),
            false => Arc::new(Self { postgres, ..Self::clone(self) }),
        }
    }
}

impl Postgres {
    /// With the logins as the files have them now.
    pub(crate) async fn renewed(&self) -> Self {
        let mut renewed = self.clone();
        if let Some(now) = self.renewal.read().await {
            renewed.audit.log_in_as(&now.postgres.audit);
            renewed.stream.log_in_as(&now.postgres.stream);
        }
        renewed
    }
}

impl Server {
    /// The login of the same server, or of the one of several that this is.
    fn log_in_as(&mut self, now: &Self) {
        // A password that is gone was in a pipe, or its file is just being written.
        let is_gone = now.password == Secret::default() && self.password != now.password;
        let is_it = self.hosts().all(|host| now.hosts().any(|known| known == host));
        if is_it && self.database == now.database && !is_gone {
            self.user.clone_from(&now.user);
            self.password.clone_from(&now.password);
        }
    }
}

impl Amqp {
    /// A broker with its login as the file has it now.
    pub(crate) async fn renewed(&self, broker: &Broker) -> Broker {
        let mut renewed = broker.clone();
        let place = |broker: &Broker| (broker.host.clone(), broker.port, broker.vhost.clone());
        if let Some(now) = self.renewal.read().await
            && let Some(now) = now.amqp.brokers.iter().find(|now| place(now) == place(broker))
        {
            renewed.user.clone_from(&now.user);
            renewed.password.clone_from(&now.password);
        }
        renewed
    }
}

impl Http {
    /// The token as its file has it now; `None` where it is in none, or the file does not answer.
    pub(crate) async fn token_now(&self) -> Option<Secret> {
        self.token_place.file.as_ref()?;
        self.renewal.read().await?.http.token
    }
}

impl Otlp {
    /// Takes its headers as their file has them now, and returns whether they have changed.
    pub(crate) async fn renew(&mut self) -> bool {
        let now = self.renewal.read().await.and_then(|now| now.otlp);
        let is_other = now.as_ref().is_some_and(|now| now.headers != self.headers);
        if let Some(now) = now {
            self.headers = now.headers;
        }
        is_other
    }
}
