//! The name of what keeps events from being delivered: the one that `check` has for it, so that status, probes, the log and
//! the console say the same of the same.

use super::NAMES;
use crate::error::{About, Fault, Handshake, Kind, Side};
use crate::postgres::{self, Denial};

/// Of a fault. What has no name of its own is `relay-stuck`.
pub(crate) fn cause(fault: &Fault) -> &'static str {
    let streams = fault.side == Side::Stream;
    let denied = postgres::server_error(fault).and_then(|error| Denial::of(error, streams));
    fault.finding.or(denied.map(Denial::name)).unwrap_or_else(|| of_kind(fault))
}

fn of_kind(fault: &Fault) -> &'static str {
    match (fault.kind, fault.side) {
        (Kind::Amqp(..), _) | (Kind::Login, Side::Broker) => of_broker(fault.kind),
        (Kind::Login, _) => "postgres-login",
        (Kind::Standby, _) => "standby",
        // No TLS at all is no matter of certificates there.
        (Kind::Tls(Handshake::NotTls), Side::Broker) => "broker-connection",
        (Kind::Tls(_), _) => "tls-certificate",
        (Kind::Io(_) | Kind::Closed | Kind::Timeout | Kind::Protocol, Side::Broker) => {
            "broker-connection"
        }
        (Kind::Io(_) | Kind::Closed | Kind::Timeout | Kind::Protocol, _) => "postgres-connection",
        (Kind::Sql(code), _) => of_code(code.as_str()),
        (Kind::Shape, _) => "column-missing",
        (Kind::Own | Kind::PassedBy | Kind::RowInStream | Kind::ShardTaken, _) => "relay-stuck",
    }
}

/// Of a refusal of RabbitMQ's.
pub(crate) fn of_broker(kind: Kind) -> &'static str {
    match kind {
        Kind::Amqp(_, About::VhostForbidden) => "broker-vhost-permission",
        Kind::Amqp(_, About::VhostMissing | About::VhostDown) => "broker-vhost",
        Kind::Amqp(_, About::VhostLimit | About::UserLimit | About::NodeLimit) => {
            "broker-connection-limit"
        }
        Kind::Amqp(403, _) => "broker-login",
        _ => "broker-connection",
    }
}

fn of_code(code: &str) -> &'static str {
    match code {
        // Starting up, shutting down, crashed: nobody is let in.
        "57P01" | "57P02" | "57P03" | "08000" | "08003" | "08006" => "postgres-connection",
        "25006" => "standby",
        "28000" => "role-login",
        "28P01" => "postgres-login",
        "3D000" => "postgres-database",
        "53100" => "postgres-disk-full",
        "53300" => "max-connections",
        "55006" => "slot-in-use",
        _ => "relay-stuck",
    }
}

/// One of the names, by its text: of what an earlier process has written.
pub(crate) fn known(text: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|name| *name == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Peer, SqlState};

    #[test]
    fn each_kind_has_a_name_of_check() {
        let of = |kind, peer, side| cause(&Fault::of(kind, peer, "x").on(side));
        let (postgres, rabbit) = (Peer::Postgres, Peer::RabbitMq);
        let sql = |code| of(Kind::Sql(SqlState::new(code)), postgres, Side::Audit);
        let amqp = |code, about| of(Kind::Amqp(code, about), rabbit, Side::Broker);
        let told = [
            (sql("28P01"), "postgres-login"),
            (sql("3D000"), "postgres-database"),
            (sql("53100"), "postgres-disk-full"),
            (sql("53300"), "max-connections"),
            (sql("57P03"), "postgres-connection"),
            (sql("25006"), "standby"),
            (sql("55006"), "slot-in-use"),
            (sql("XX000"), "relay-stuck"),
            (of(Kind::Timeout, postgres, Side::Stream), "postgres-connection"),
            (of(Kind::Timeout, rabbit, Side::Broker), "broker-connection"),
            (of(Kind::Tls(Handshake::Name), rabbit, Side::Broker), "tls-certificate"),
            (amqp(403, About::Login), "broker-login"),
            (amqp(530, About::VhostMissing), "broker-vhost"),
            (amqp(530, About::NodeLimit), "broker-connection-limit"),
            (cause(&Fault::transient("x")), "relay-stuck"),
        ];
        for (is, wanted) in told {
            assert_eq!(is, wanted);
            assert_eq!(known(is), Some(wanted), "{is} is among the names");
        }
    }
}
