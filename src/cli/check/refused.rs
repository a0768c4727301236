//! What it means that Postgres did not let a connection in.

use crate::config::Server;
use crate::error::Fault;
use crate::postgres::{self, Denial};
use crate::slot::{Finding, cause};

/// What is said of a pooler in between.
pub(super) const POOLER: &str = "pooler";

/// `streams`: whether it is the stream's role.
pub(super) fn finding(server: &Server, streams: bool, fault: Fault) -> Finding {
    let Some(error) = postgres::server_error(&fault) else { return unreached(fault) };
    let Some(denied) = Denial::of(error, streams) else { return unreached(fault) };
    let hint = denied.hint(server, &error.message, streams);
    let what = match denied {
        Denial::Pooler => {
            format!("{}: this is a pooler, and it does not let the connection through", fault.what)
        }
        _ => fault.what,
    };
    Finding::error(denied.name(), what, hint)
}

fn unreached(fault: Fault) -> Finding {
    // A connection that is refused in a way that nobody knows is one that is not to be had.
    let name = match cause(&fault) {
        "relay-stuck" => "postgres-connection",
        name => name,
    };
    // A fault sends its reader to this very command.
    let hint = match fault.has_general_hint() {
        true => "check host and port, and that Postgres runs there and is not behind a firewall",
        false => fault.hint.as_str(),
    };
    Finding::error(name, fault.what.as_str(), hint)
}
