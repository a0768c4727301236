//! What a server says in an error, and what that means.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use tokio_postgres::error::DbError;

use crate::error::{Class, Fault, Handshake, Kind, Peer, SqlState, codes, table};
use crate::tls;

/// What a server says in an error, as data. Its DETAIL and CONTEXT may hold a row's values: they are
/// kept for deciding, and shown to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// The SQLSTATE.
    pub code: SqlState,
    /// In the server's language.
    pub message: String,
    /// The function of the server's source that reports it; a pooler has none.
    pub routine: Option<String>,
    /// The table that it is about.
    pub table: Option<String>,
    /// The column that it is about.
    pub column: Option<String>,
    /// The constraint that it is about.
    pub constraint: Option<String>,
    /// Whether it was raised within a function or trigger of the database.
    pub is_within_function: bool,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    /// Reads the body of an ErrorResponse of a walsender: a letter and a text for each field.
    ///
    /// Its context (field `W`) names the output plugin's callback. It runs no function of the database.
    pub(crate) fn parse(mut body: &[u8]) -> Self {
        let mut error = Self {
            code: SqlState::new(""),
            message: String::new(),
            routine: None,
            table: None,
            column: None,
            constraint: None,
            is_within_function: false,
        };
        while let Some((&field, rest)) = body.split_first() {
            let length = rest.iter().position(|byte| *byte == 0);
            let (Some(length), true) = (length, field != 0) else { break };
            let (text, after) = rest.split_at(length);
            let text = String::from_utf8_lossy(text).into_owned();
            match field {
                b'C' => error.code = SqlState::new(&text),
                b'M' => error.message = text,
                b'R' => error.routine = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
            body = after.get(1..).unwrap_or_default();
        }
        error
    }

    fn of(db: &DbError) -> Self {
        let text = |text: Option<&str>| text.map(ToOwned::to_owned);
        Self {
            code: SqlState::new(db.code().code()),
            message: db.message().to_owned(),
            routine: text(db.routine()),
            table: text(db.table()),
            column: text(db.column()),
            constraint: text(db.constraint()),
            is_within_function: db.where_().is_some(),
        }
    }

    /// A function of the database raised it, with a code of its choice: that says nothing of the
    /// server.
    fn is_raised(&self) -> bool {
        self.is_within_function && self.routine.as_deref() == Some("exec_stmt_raise")
    }

    /// As [`is_of_row`].
    fn is_of_row(&self) -> bool {
        if self.code.as_str() == codes::TAKEN_OVER {
            return false;
        }
        // What may pass by itself is no fault of a row's, unless somebody says so.
        let may_pass =
            ["08", "25", "40", "53", "55", "57", "58", "XX"].contains(&self.code.class());
        let entry = table::entry(Kind::Sql(self.code), Peer::Postgres);
        entry.verdict == table::Verdict::OfRow
            || self.is_raised()
            || self.is_within_function && !may_pass
    }

    /// What it means.
    pub(crate) fn fault(self) -> Fault {
        let mut fault = Fault::of(Kind::Sql(self.code), Peer::Postgres, self.to_string());
        // What the database's own code raises says nothing of the statement's tables and rights.
        let is_own = self.code.as_str() == codes::TAKEN_OVER;
        if !is_own
            && (self.is_raised() || self.is_within_function && fault.class == Class::Definite)
        {
            fault.class = Class::Transient;
            fault = fault.hint(table::TRIGGER);
        }
        fault.because(self)
    }
}

/// What the server said, if a fault is an error of Postgres.
pub(crate) fn server_error(fault: &Fault) -> Option<&ServerError> {
    std::error::Error::source(fault)?.downcast_ref()
}

/// Whether one row is the cause of an error, or what the database's own code does with that row:
/// without the row, or in another form of it, the statement may do.
pub(crate) fn is_of_row(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| ServerError::of(db).is_of_row())
}

/// As [`is_of_row`], wherever rows are read: one of more than 1 GB as text is an internal error of the server.
/// Not where they are written: there another form is tried, which may have less in it, and what is internal
/// may pass.
pub(crate) fn is_of_shown_row(fault: &Fault) -> bool {
    server_error(fault)
        .is_some_and(|error| error.code.as_str() == codes::INTERNAL_ERROR || error.is_of_row())
}

/// A later session owns the slot: nothing more of this one's is to be written.
pub(crate) fn is_taken_over(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code() == codes::TAKEN_OVER)
}

/// The server refuses it, and another form of it, or a part, may do.
pub(crate) fn is_refused(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some() && !is_taken_over(error)
}

/// Somebody has a lock: the server says so, not a trigger that raises the same code.
pub(crate) fn is_lock(fault: &Fault) -> bool {
    fault.is_code(codes::LOCK_NOT_AVAILABLE)
        && !server_error(fault).is_some_and(ServerError::is_raised)
}

/// What an error of the connection means.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Fault {
    if let Some(db) = error.as_db_error() {
        return ServerError::of(db).fault();
    }
    let mut said = error.to_string();
    // Some say what is below them, some do not.
    if let Some(below) = error.source().map(ToString::to_string)
        && !said.ends_with(&below)
    {
        said = format!("{said}: {below}");
    }
    Fault::of(kind(error), Peer::Postgres, said)
}

/// The library keeps its own kinds to itself, but for a few.
fn kind(error: &tokio_postgres::Error) -> Kind {
    if error.is_closed() {
        return Kind::Closed;
    }
    if let Some(trouble) = tls::trouble(error) {
        return Kind::Tls(trouble);
    }
    let mut below = error.source();
    while let Some(error) = below {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Kind::Io(error.kind());
        }
        below = error.source();
    }
    // Its words, in English always: the kinds have no other face.
    let text = error.to_string();
    let is = |kind: &str| text.starts_with(kind);
    if is("error performing TLS handshake") {
        // The server said N.
        Kind::Tls(Handshake::Unsupported)
    } else if is("invalid configuration") || is("authentication error") {
        // No password where one is asked for, or a method that is not supported.
        Kind::Login
    } else if is("timeout") {
        Kind::Timeout
    } else if is("unexpected message") || is("error parsing response") {
        Kind::Protocol
    } else {
        Kind::Own
    }
}

/// A server that cannot be reached.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn unreachable(error: std::io::Error) -> Fault {
    Fault::of(Kind::Io(error.kind()), Peer::Postgres, error.to_string())
}

/// No answer, of an ordinary connection or of the stream's.
pub(crate) fn no_answer(bound: Duration) -> Fault {
    let what = format!("no answer within {}", crate::text::span(bound));
    Fault::of(Kind::Timeout, Peer::Postgres, what)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The body of an ErrorResponse.
    pub(in crate::postgres) fn body(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, text) in fields {
            body.push(*field);
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    #[test]
    fn reads_an_error_response() {
        let error = ServerError::parse(&body(&[
            (b'S', "FEHLER"),
            (b'V', "ERROR"),
            (b'C', "42704"),
            (b'M', "publication \"p (SQLSTATE 42501)\" does not exist"),
            (b'R', "get_publication_oid"),
            (b'W', "slot \"s\", output plugin \"pgoutput\", in the change callback"),
        ]));
        assert_eq!(error.routine.as_deref(), Some("get_publication_oid"));
        let fault = error.fault();
        assert_eq!((fault.class, fault.code()), (Class::Definite, Some("42704")));
        assert_eq!(server_error(&fault).map(|error| error.is_within_function), Some(false));
        for broken in [&b""[..], b"M", b"Mx", b"C42", b"\0\0", b"C42704\0M"] {
            assert!(!ServerError::parse(broken).fault().hint.is_empty());
        }
    }

    #[test]
    fn what_a_function_raises_waits_for_nobody() {
        for code in ["42501", "42P01", "55000", "3D000", "42601", "58P01"] {
            let mut raised = ServerError::parse(&body(&[(b'C', code), (b'M', "m")]));
            raised.is_within_function = true;
            let fault = raised.fault();
            assert_eq!((fault.class, fault.hint.as_str()), (Class::Transient, table::TRIGGER));
        }
    }
}
