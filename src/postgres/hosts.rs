//! Which of several hosts is the primary: a relay reads its slot and writes marks, so nothing else
//! will do. They are tried in their order, as libpq does with `target_session_attrs=primary`.

use crate::config::{Host, Server};
use crate::error::{Class, Fault, Handshake, Kind, Peer};
use crate::postgres::not_in;

/// A search among the hosts of one server.
pub(crate) struct Search<'a> {
    server: &'a Server,
    hosts: std::vec::IntoIter<Host>,
    streams: bool,
    /// Why each was passed over.
    passed: Vec<Fault>,
}

impl<'a> Search<'a> {
    /// `streams`: for the replication stream.
    pub(crate) fn new(server: &'a Server, streams: bool) -> Self {
        let hosts = server.hosts().collect::<Vec<_>>().into_iter();
        Self { server, hosts, streams, passed: Vec::new() }
    }

    /// The next host to be tried.
    pub(crate) fn next(&mut self) -> Option<Server> {
        self.hosts.next().map(|host| self.server.at(host))
    }

    /// Whether a host that lets us in is what is looked for. Where there is no other, that is for
    /// those to say who are asked more; so it is for a pooler, which does not say.
    pub(crate) fn is_found(&mut self, host: &Server, is_standby: Option<bool>) -> bool {
        if self.server.others.is_empty() || is_standby != Some(true) {
            return true;
        }
        let fault = Fault::of(Kind::Standby, Peer::Postgres, "it is a standby");
        self.passed.push(not_in(host, self.streams, fault));
        false
    }

    /// A host did not let us in.
    ///
    /// # Errors
    /// It was reached and refuses the login, or our own settings are at fault: none of the others
    /// is tried then, as libpq does it.
    pub(crate) fn failed(&mut self, host: &Server, fault: Fault) -> Result<(), Fault> {
        // Of class 57 is what a server says that starts or stops.
        let is_refused = match fault.kind {
            Kind::Sql(code) => code.class() != "57",
            Kind::Login | Kind::Tls(Handshake::File) => true,
            _ => fault.class != Class::Transient,
        };
        let fault = not_in(host, self.streams, fault);
        if is_refused || self.server.others.is_empty() {
            return Err(fault);
        }
        self.passed.push(fault);
        Ok(())
    }

    /// None of them is the primary: what each said. One that could not be reached may be it.
    pub(crate) fn end(self) -> Fault {
        let all: Vec<_> = self.passed.iter().map(|fault| fault.what.clone()).collect();
        let is_standby = |fault: &Fault| fault.kind == Kind::Standby;
        let has_standby = self.passed.iter().any(is_standby);
        let gravest = self.passed.iter().position(|fault| !is_standby(fault)).unwrap_or(0);
        let Some(mut fault) = self.passed.into_iter().nth(gravest) else {
            return Fault::transient("no host of Postgres is named");
        };
        fault.what = format!("no host is the primary: {}", all.join("; "));
        if has_standby && fault.kind != Kind::Standby {
            // It is more than the end of a connection, which may have been said before.
            fault.kind = Kind::Standby;
            fault.hint.push_str("; or promote the standby: SELECT pg_promote();");
        } else if has_standby {
            fault = fault.hint("promote one of them: SELECT pg_promote(); or name the primary too");
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(others: &[&str]) -> Server {
        let host = |name: &&str| Host { name: (*name).to_owned(), port: 5432 };
        Server {
            host: "a".to_owned(),
            port: 5432,
            others: others.iter().map(host).collect(),
            user: "relay".to_owned(),
            password: crate::config::Secret::default(),
            password_place: crate::config::Place::default(),
            database: "app".to_owned(),
            tls: crate::config::Tls::default(),
        }
    }

    fn unreachable() -> Fault {
        let refused = std::io::ErrorKind::ConnectionRefused;
        Fault::of(Kind::Io(refused), Peer::Postgres, "connection refused")
    }

    #[test]
    fn what_each_host_said_is_told_with_the_hint_of_the_one_that_may_be_the_primary() {
        let server = server(&["b"]);
        let mut search = Search::new(&server, false);
        let first = search.next().expect("the first");
        assert!(!search.is_found(&first, Some(true)), "a standby is passed over");
        let second = search.next().expect("the second");
        search.failed(&second, unreachable()).expect("it is passed over");
        assert!(search.next().is_none());
        let fault = search.end();
        let hint = unreachable().hint;
        assert_eq!(
            fault.what,
            "no host is the primary: Postgres at a:5432/app: it is a standby; Postgres at b:5432/app: connection refused"
        );
        assert_eq!(fault.hint, format!("{hint}; or promote the standby: SELECT pg_promote();"));
        assert_eq!(fault.kind, Kind::Standby);
        let mut search = Search::new(&server, false);
        while let Some(host) = search.next() {
            assert!(!search.is_found(&host, Some(true)));
        }
        assert!(search.end().hint.contains("pg_promote"));
    }

    #[test]
    fn what_is_no_standby_is_taken_and_a_single_host_always() {
        let several = server(&["b"]);
        for is_standby in [Some(false), None] {
            let mut search = Search::new(&several, false);
            let host = search.next().expect("the first");
            assert!(search.is_found(&host, is_standby));
        }
        let alone = server(&[]);
        let mut search = Search::new(&alone, false);
        let host = search.next().expect("the only one");
        assert!(search.is_found(&host, Some(true)), "the preflight says it better");
        assert!(search.failed(&host, unreachable()).is_err());
    }

    #[test]
    fn a_login_that_is_refused_is_tried_nowhere_else() {
        let several = server(&["b"]);
        let refused = |code: &str| {
            let mut body = vec![b'C'];
            body.extend(code.as_bytes());
            body.push(0);
            crate::postgres::ServerError::parse(&body).fault()
        };
        let mut search = Search::new(&several, false);
        let host = search.next().expect("the first");
        assert!(search.failed(&host, refused("28P01")).is_err());
        assert!(search.failed(&host, refused("57P03")).is_ok(), "it is starting");
    }
}
