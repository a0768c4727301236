//! What can go wrong, in the classes that decide what happens next.
//!
//! A fault says as data what it is of ([`Kind`]: a server's code, a handshake, a silence), so that
//! nobody has to look into its text; what each kind means and what helps stands in one table
//! ([`table`]).

pub(crate) mod codes;
pub(crate) mod table;

use std::fmt;
use std::io;
use std::sync::Arc;

/// Decides what the relay does about a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The world may recover by itself (a connection, an alarm, a slot in use): the session ends
    /// and a new one starts after a pause. Never a process exit.
    Transient,
    /// One event cannot be delivered. Nothing after it is acknowledged.
    Event,
    /// Only a person can fix it, and the next session sees that they did: a command ends, a
    /// running relay waits, not ready, and acknowledges nothing.
    Definite,
    /// A policy says to stop: the relay ends without acknowledging.
    Halt,
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

/// Whom a connection is with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// A Postgres server, or a pooler in front of one.
    Postgres,
    /// A RabbitMQ broker.
    RabbitMq,
}

/// What a fault is of, as data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Found out by pgoutbox itself.
    #[default]
    Own,
    /// An error of Postgres.
    Sql(SqlState),
    /// An error of RabbitMQ: its reply code, and what it is about where the code does not say.
    Amqp(u16, About),
    /// A TLS handshake.
    Tls(Handshake),
    /// The network or the operating system.
    Io(io::ErrorKind),
    /// No answer in time.
    Timeout,
    /// The connection was closed by the other side, or lost.
    Closed,
    /// There is no way to log in: no password is set, or the server asks for a method that is not
    /// supported.
    Login,
    /// What the other side sent cannot be understood.
    Protocol,
    /// The server is a standby: it takes no writes.
    Standby,
    /// As long as it lasts, rows of an outbox table pass by the slot: they are to be caught up with.
    PassedBy,
    /// The stream has rows of an outbox table in a shape that the mapping does not fit.
    Shape,
    /// The walsender raises at a row, and does so each time it comes to it.
    RowInStream,
    /// Another relay has the shard, and there may be one that nobody has.
    ShardTaken,
}

/// What a refusal of RabbitMQ is about, where one reply code stands for several things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum About {
    /// The code says it all.
    #[default]
    Code,
    /// User and password.
    Login,
    /// The vhost does not exist.
    VhostMissing,
    /// The user has no permissions on the vhost.
    VhostForbidden,
    /// The vhost is not running on this node.
    VhostDown,
    /// As many connections as the vhost may have.
    VhostLimit,
    /// As many connections as the user may have.
    UserLimit,
    /// As many connections as the node may have.
    NodeLimit,
}

/// What a TLS handshake failed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The other side does not speak TLS on this port.
    NotTls,
    /// The server says that it has none.
    Unsupported,
    /// Its certificate is of no authority that is trusted here.
    Untrusted,
    /// Its certificate is for another name.
    Name,
    /// Its certificate is no longer, or not yet, valid.
    Expired,
    /// Its certificate cannot be used: of an old version, or broken.
    Unusable,
    /// It did not accept our certificate, or asks for one.
    Refused,
    /// No version or cipher in common.
    Mismatch,
    /// A file of ours cannot be read or used.
    File,
    /// Anything else.
    Other,
}

/// A five-character code of Postgres.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Reads a code; what is not a code becomes `XX000`.
    pub(crate) fn new(code: &str) -> Self {
        match <[u8; 5]>::try_from(code.as_bytes()) {
            Ok(bytes) if bytes.is_ascii() => Self(bytes),
            _ => Self(*b"XX000"),
        }
    }

    /// The code.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The two characters that stand for a class of codes.
    pub(crate) fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("XX")
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error below a fault. Two are equal if they say the same.
#[derive(Debug, Clone)]
struct Source(Arc<dyn std::error::Error + Send + Sync>);

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.to_string() == other.0.to_string()
    }
}

impl Eq for Source {}

/// A fault as an operator reads it: what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Decides what the relay does about it.
    pub class: Class,
    /// On which connection it was.
    pub side: Side,
    /// What it is of.
    pub kind: Kind,
    /// The name of what was found, as `check` has it, where it was found by looking.
    pub(crate) finding: Option<&'static str>,
    /// What is wrong, naming the thing. Never holds a secret or a payload.
    pub what: String,
    /// The command, SQL or setting that helps. Never empty, but for settings, whose hints stand
    /// beside each in `what`.
    pub hint: String,
    source: Option<Source>,
}

impl Fault {
    /// A fault that may pass by itself.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Class::Transient, what, "")
    }

    /// A fault only a person can fix, with the SQL or command that does.
    pub fn definite(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Class::Definite, what, hint)
    }

    /// What a policy says to stop for, with the way out.
    pub(crate) fn halt(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Class::Halt, what, hint)
    }

    /// A wrong setting or argument.
    pub(crate) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Class::Usage, what, hint)
    }

    /// A fault of the given class. Without a hint of its own it gets the table's.
    pub(crate) fn new(class: Class, what: impl Into<String>, hint: impl Into<String>) -> Self {
        let fault = Self {
            class,
            side: Side::None,
            kind: Kind::Own,
            finding: None,
            what: what.into(),
            hint: String::new(),
            source: None,
        };
        fault.hint(hint)
    }

    /// A fault of a connection: class and hint as the table has them.
    pub(crate) fn of(kind: Kind, peer: Peer, what: impl Into<String>) -> Self {
        let entry = table::entry(kind, peer);
        let mut fault = Self::new(entry.class(), what, entry.hint);
        fault.kind = kind;
        fault
    }

    /// Says on which connection it was.
    #[must_use]
    pub(crate) fn on(mut self, side: Side) -> Self {
        self.side = side;
        self
    }

    /// Says how to fix it; an empty text leaves what the table says.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        if self.hint.is_empty() {
            self.hint = match self.class {
                // A list of wrong settings has a hint for each.
                Class::Usage => "",
                Class::Definite | Class::Halt => table::CHECK,
                Class::Transient | Class::Event => table::LASTS,
            }
            .to_owned();
        }
        self
    }

    /// Says what `check` calls it.
    #[must_use]
    pub(crate) fn found(mut self, finding: Option<&'static str>) -> Self {
        self.finding = finding;
        self
    }

    /// Says what it is of.
    #[must_use]
    pub(crate) fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Keeps the error below it.
    #[must_use]
    pub(crate) fn because(mut self, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Source(Arc::new(error)));
        self
    }

    /// Postgres' code, if it is an error of Postgres.
    pub(crate) fn code(&self) -> Option<&str> {
        match &self.kind {
            Kind::Sql(code) => Some(code.as_str()),
            _ => None,
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "fault": {
            "class": format!("{:?}", self.class).to_lowercase(),
            "code": self.code(),
            "what": self.what,
            "hint": self.hint,
        }})
    }

    /// Whether it is this error of Postgres.
    pub(crate) fn is_code(&self, code: &str) -> bool {
        self.code() == Some(code)
    }

    /// Whether its hint sends the reader to `pgoutbox check`, or is a general one: no use to who
    /// runs just that.
    pub(crate) fn has_general_hint(&self) -> bool {
        [table::LASTS, table::CHECK, table::GRANT].contains(&self.hint.as_str())
    }

    /// The process exit code: 1 definite, 64 usage (`EX_USAGE`), 69 a server could not be
    /// reached by a one-shot command (`EX_UNAVAILABLE`).
    pub(crate) fn exit_code(&self) -> u8 {
        match self.class {
            Class::Definite | Class::Halt | Class::Event => 1,
            Class::Usage => 64,
            Class::Transient => 69,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.source.as_ref()?;
        Some(source.0.as_ref())
    }
}

/// The same with `mend` beside each `hint`: that is what JSON called it up to version 0.1, and
/// alerts may read it.
#[must_use]
pub(crate) fn with_old_key(mut value: serde_json::Value) -> serde_json::Value {
    match &mut value {
        serde_json::Value::Object(object) => {
            for part in object.values_mut() {
                *part = with_old_key(part.take());
            }
            if let Some(hint) = object.get("hint").cloned() {
                object.insert("mend".to_owned(), hint);
            }
        }
        serde_json::Value::Array(parts) => {
            for part in parts {
                *part = with_old_key(part.take());
            }
        }
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_is_found_under_its_old_name_too() {
        let new = serde_json::json!({ "findings": [{ "hint": "h", "what": "w" }], "hint": null });
        let both = with_old_key(new);
        assert_eq!(both["findings"][0]["mend"], "h");
        assert_eq!(both["findings"][0]["hint"], "h");
        assert!(both.as_object().unwrap().contains_key("mend"));
    }
    use std::error::Error as _;

    #[test]
    fn a_fault_keeps_its_code_and_its_source() {
        let fault = Fault::of(Kind::Sql(SqlState::new("42501")), Peer::Postgres, "no")
            .because(io::Error::other("below"));
        assert_eq!(fault.code(), Some("42501"));
        assert!(fault.is_code(codes::INSUFFICIENT_PRIVILEGE) && !fault.is_code("42P01"));
        assert_eq!(fault.source().map(ToString::to_string).as_deref(), Some("below"));
        assert_eq!(fault.clone(), fault);
    }

    #[test]
    fn a_text_that_holds_a_code_is_no_code() {
        assert_eq!(Fault::transient("row 42501 (SQLSTATE 42501)").code(), None);
    }

    #[test]
    fn no_fault_is_without_a_hint() {
        for fault in
            [Fault::transient("x"), Fault::definite("x", ""), Fault::transient("x").hint("")]
        {
            assert!(!fault.hint.is_empty(), "{fault:?}");
        }
    }

    #[test]
    fn what_is_no_code_is_an_internal_error() {
        assert_eq!(SqlState::new("").as_str(), "XX000");
        assert_eq!(SqlState::new("äää").as_str(), "XX000");
        assert_eq!(SqlState::new("23505").class(), "23");
    }
}
