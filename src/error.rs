//! What can go wrong, in the classes that decide what happens next.

use std::fmt;

/// Decides what the relay does about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The world may mend itself (a connection, an alarm, a slot in use): the session ends
    /// and a new one starts after a pause. Never a process exit.
    Transient,
    /// One event cannot be delivered. Nothing after it is acknowledged.
    Event,
    /// Only a person can mend it: stop without acknowledging.
    Definite,
    /// The settings or the command line are wrong; nothing was connected to.
    Usage,
}

/// On which connection something failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// On none in particular.
    #[default]
    None,
    /// The replication connection.
    Stream,
    /// The audit connection.
    Audit,
    /// The connection to RabbitMQ.
    Broker,
}

/// A fault as an operator reads it: what is wrong, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Decides what the relay does about it.
    pub class: Class,
    /// On which connection it was.
    pub side: Side,
    /// What is wrong, naming the thing. Never holds a secret or a payload.
    pub what: String,
    /// The command, SQL or setting that mends it. May be empty when nothing needs doing.
    pub mend: String,
}

impl Fault {
    /// A fault that may pass by itself.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Class::Transient, what, "")
    }

    /// A fault only a person can mend, with the SQL or command that does.
    pub fn definite(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Definite, what, mend)
    }

    /// A wrong setting or argument.
    pub fn usage(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(Class::Usage, what, mend)
    }

    /// A fault of the given class.
    pub fn new(class: Class, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { class, side: Side::None, what: what.into(), mend: mend.into() }
    }

    /// Says on which connection it was.
    #[must_use]
    pub fn on(mut self, side: Side) -> Self {
        self.side = side;
        self
    }

    /// Adds what mends it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = mend.into();
        self
    }

    /// The process exit code: 1 definite, 64 usage (`EX_USAGE`), 69 a server could not be
    /// reached by a one-shot command (`EX_UNAVAILABLE`).
    pub fn exit_code(&self) -> u8 {
        match self.class {
            Class::Definite | Class::Event => 1,
            Class::Usage => 64,
            Class::Transient => 69,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.mend.is_empty() {
            write!(f, "\n  mend: {}", self.mend)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
