//! The log, and how much it says.

use std::fmt::{self, Debug, Write as _};
use std::io;

use tracing::field::Field;
use tracing::{info, warn};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config;
use crate::error::Fault;
use crate::output::{self, LogWriter};
use crate::postgres;
use crate::rabbitmq::publisher;
use crate::text::{OneLine, harmless};

/// What SIGUSR1 adds.
const LOUD: &str = "pgoutbox=debug";

/// The log of the process.
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    level: String,
    is_loud: bool,
}

impl Log {
    /// Begins to write it, to standard error.
    ///
    /// # Errors
    /// The level cannot be read, or the process has a log already.
    pub(super) fn start(log: &config::Log) -> Result<Self, Fault> {
        let (filter, handle) = reload::Layer::new(filter(&log.level)?);
        let registry = tracing_subscriber::registry().with(filter);
        output::start_log()
            .map_err(|error| Fault::transient(format!("the log cannot be started: {error}")))?;
        let outcome = if log.is_json {
            let writer = || Lines(LogWriter);
            let layer =
                tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
            registry.with(layer.with_target(false)).try_init()
        } else {
            let is_terminal = output::is_log_terminal();
            let layer = tracing_subscriber::fmt::layer().with_writer(|| LogWriter);
            let layer = layer.with_ansi(is_terminal).fmt_fields(debug_fn(field).delimited(" "));
            registry.with(layer.with_target(false)).try_init()
        };
        outcome.map_err(|error| Fault::transient(format!("the log cannot be started: {error}")))?;
        Ok(Self { filter: handle, level: log.level.clone(), is_loud: false })
    }

    /// From now on it says as much as this; returns whether that is a change. The log is the only one to
    /// know what it said until now: a configuration may never have come into force.
    pub(super) fn set_level(&mut self, level: &str) -> bool {
        if self.level == level {
            return false;
        }
        level.clone_into(&mut self.level);
        self.is_loud = false;
        self.apply();
        true
    }

    /// Debug and back, for anyone who has no file to change.
    pub(super) fn toggle(&mut self) {
        self.is_loud = !self.is_loud;
        self.apply();
        match self.is_loud {
            true => info!("log level raised to debug until the next SIGUSR1"),
            false => info!("log level restored to log.level"),
        }
    }

    fn apply(&self) {
        let level = match self.is_loud {
            true => format!("{},{LOUD}", self.level),
            false => self.level.clone(),
        };
        let outcome = filter(&level)
            .map_err(|fault| fault.what)
            .and_then(|filter| self.filter.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = outcome {
            warn!("log level unchanged: {error}");
        }
    }
}

/// Writes a field as part of its line: what events, servers and operators have written neither
/// acts on a terminal nor begins a line of its own.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let mut line = OneLine(writer);
    match field.name() {
        "message" => write!(line, "{value:?}"),
        name => write!(line, "{name}={value:?}"),
    }
}

/// JSON in which nothing acts on a terminal: JSON's own escapes leave out some.
struct Lines<W>(W);

impl<W: io::Write> io::Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = harmless(String::from_utf8_lossy(bytes));
        self.0.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What libraries may not say stays unsaid, whatever the level: it may be a payload.
fn filter(level: &str) -> Result<EnvFilter, Fault> {
    let mut filter = EnvFilter::try_new(level).map_err(|error| {
        Fault::usage(format!("log.level: {error}"), "write a level, such as info")
    })?;
    for directive in publisher::LOG.into_iter().chain(postgres::LOG) {
        if let Ok(directive) = directive.parse() {
            filter = filter.add_directive(directive);
        }
    }
    Ok(filter)
}
