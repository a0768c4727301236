//! Postgres URLs: libpq's form, less what a relay cannot honour.

use std::time::Duration;

use super::address::{Address, decode};
use super::raw::Wrong;
use super::ssl_mode::ssl_mode;
use super::{Host, TlsMode};

/// What a URL says; `None` where it is silent.
#[derive(Clone, Default)]
pub(crate) struct PostgresUrl {
    /// One, or several behind commas.
    pub(crate) host: Option<String>,
    /// Likewise: one for all hosts, or one for each, which may be empty.
    pub(crate) port: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) mode: Option<TlsMode>,
    pub(crate) ca_file: Option<String>,
    pub(crate) cert_file: Option<String>,
    pub(crate) key_file: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
}

// By hand: the password must not show.
impl std::fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresUrl(***)")
    }
}

const FORM: &str = "write it like postgres://user:password@host:5432/database?sslmode=verify-full";

impl PostgresUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// Says what is wrong without repeating the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        if is_key_value(text) {
            return Err(Wrong::new("is libpq's list of key=value pairs, not a URL", FORM));
        }
        let address = Address::parse_several(text.trim())
            .map_err(|what| Wrong::new(format!("is not a URL: {what}"), FORM))?;
        if !["postgres", "postgresql"].contains(&address.scheme.as_str()) {
            return Err(Wrong::new("is not a postgres:// URL", FORM));
        }
        let path = address.path.strip_prefix('/').unwrap_or_default();
        let database = decode(path).map_err(|what| Wrong::new(what, FORM))?;
        if path.contains('/') {
            return Err(Wrong::new("has a `/` after the database's name", FORM));
        }
        let (host, port) = lists(&address);
        let mut url = Self {
            host,
            port,
            user: address.user,
            password: address.password,
            database: Some(database).filter(|name| !name.is_empty()),
            ..Self::default()
        };
        for (key, value) in &address.query {
            url.parameter(key, value)?;
        }
        // Where it leaves one of them out, that is seen once it is filled in.
        if let Some(host) = &url.host {
            hosts(host, url.port.as_deref().unwrap_or_default())?;
        }
        Ok(url)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let text = Some(value.to_owned());
        match key {
            "host" => self.host = text,
            "port" => {
                value
                    .split(',')
                    .filter(|one| !one.is_empty())
                    .try_for_each(|one| port(one).map(|_| ()))?;
                self.port = text;
            }
            "user" => self.user = text,
            "password" => self.password = text,
            "dbname" => self.database = text,
            "sslmode" => self.mode = Some(ssl_mode(value)?),
            // libpq's word for the system's authorities, which it only takes with verify-full.
            "sslrootcert" if value == "system" => {
                self.ca_file = None;
                self.mode = self.mode.or(Some(TlsMode::VerifyFull));
            }
            "sslrootcert" => self.ca_file = text,
            "sslcert" => self.cert_file = text,
            "sslkey" => self.key_file = text,
            "application_name" if (1..=63).contains(&value.len()) => self.application_name = text,
            "application_name" => {
                return Err(Wrong::new("application_name has no or over 63 bytes", "shorten it"));
            }
            "connect_timeout" => self.connect_timeout = Some(seconds(value)?),
            _ => return libpqs(key, value),
        }
        Ok(())
    }
}

/// A parameter of libpq's that changes nothing here: with a value that is what pgoutbox does anyway
/// it is taken, so that the strings that services hand out can be used as they are; with another it
/// is refused, since to pass over it would be less than what was asked for.
fn libpqs(key: &str, value: &str) -> Result<(), Wrong> {
    let (is_so, why, hint) = match key {
        "target_session_attrs" => (
            ["any", "read-write", "primary"].contains(&value),
            "a relay reads the primary's slot, and writes marks",
            "write read-write, or leave it out: of several hosts the primary is looked for anyway",
        ),
        "channel_binding" => (
            ["prefer", "disable"].contains(&value),
            "the replication connection has none",
            "leave it out, and write sslmode=verify-full: that keeps out who stands in between, too",
        ),
        "sslnegotiation" => (
            value == "postgres",
            "TLS is asked for in Postgres' own way, which each server takes",
            "leave it out",
        ),
        "gssencmode" => (
            ["prefer", "disable"].contains(&value),
            "GSSAPI is not built in",
            "leave it out; TLS is asked for by sslmode",
        ),
        "sslsni" => {
            (value == "1", "the host's name is always sent in a TLS handshake", "leave it out")
        }
        "sslcertmode" => (
            value == "allow",
            "a client certificate is shown where one is set and the server asks for it",
            "leave it out; sslcert and sslkey name the certificate",
        ),
        "sslcompression" => (value == "0", "TLS is never compressed", "leave it out"),
        "ssl_min_protocol_version" => (
            ["TLSv1", "TLSv1.1", "TLSv1.2"].contains(&value),
            "TLS 1.2 and 1.3 are what is spoken",
            "leave it out, or set ssl_min_protocol_version at the server",
        ),
        "keepalives" => (value == "1", "a dead server would not be noticed", "leave it out"),
        "keepalives_idle" | "keepalives_interval" | "keepalives_count" | "tcp_user_timeout" => (
            value.parse::<u32>().is_ok(),
            "it is not a number",
            "leave it out: a dead server shows within 25 s here",
        ),
        "load_balance_hosts" => (
            ["disable", "random"].contains(&value),
            "it is neither disable nor random",
            "leave it out: of several hosts the primary is looked for, in whatever order",
        ),
        "client_encoding" => (
            ["utf8", "utf-8", "auto"].contains(&value.to_ascii_lowercase().as_str()),
            "texts are published as UTF-8",
            "leave it out",
        ),
        "fallback_application_name" => (true, "", ""),
        "options" => (
            false,
            "pgoutbox sets what its connections need by itself",
            "leave it out; for anything else: ALTER ROLE … SET",
        ),
        "hostaddr" => {
            (false, "addresses are looked up by the host's name", "write the address as the host")
        }
        "passfile" | "service" | "servicefile" => (
            false,
            "files of libpq's are not read",
            "write the connection out; a password may stand in postgres.password_file",
        ),
        "ssl_max_protocol_version" => {
            (value == "TLSv1.3", "TLS 1.2 and 1.3 are what is spoken", "leave it out")
        }
        "requiressl" => (value == "0", "sslmode says that", "write sslmode=require or verify-full"),
        // Of GSSAPI, which is never asked for.
        "krbsrvname" | "gsslib" | "gssdelegation" => (true, "", ""),
        "min_protocol_version" | "max_protocol_version" => (
            ["3.0", "latest"].contains(&value),
            "version 3.0 of Postgres' protocol is what is spoken",
            "leave it out",
        ),
        "sslpassword" => (
            false,
            "keys with a password are not read",
            "take the password off the key: openssl pkey -in KEY -out NEW; and see that nobody else can read it",
        ),
        "sslcrl" | "sslcrldir" => (
            false,
            "lists of revoked certificates are not read",
            "leave it out, and let certificates live for a short time",
        ),
        "require_auth" | "requirepeer" => {
            (false, "it cannot be promised", "leave it out, and write sslmode=verify-full")
        }
        "replication" => {
            (false, "which connection replicates is pgoutbox's to say", "leave it out")
        }
        _ => {
            return Err(Wrong::new(
                format!("has the parameter `{key}`, which pgoutbox does not know"),
                "leave it out; known are host, port, user, password, dbname, sslmode, \
                 sslrootcert, sslcert, sslkey, application_name and connect_timeout",
            ));
        }
    };
    if is_so {
        return Ok(());
    }
    Err(Wrong::new(
        format!("has the parameter `{key}` with a value that cannot be honoured: {why}"),
        hint,
    ))
}

/// Variables of libpq's, each with the parameter that it stands for. Those that pgoutbox reads are not
/// among them.
pub(crate) const VARIABLES: [(&str, &str); 26] = [
    ("PGHOSTADDR", "hostaddr"),
    ("PGPASSFILE", "passfile"),
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGOPTIONS", "options"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGGSSLIB", "gsslib"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
    ("PGMAXPROTOCOLVERSION", "max_protocol_version"),
    ("PGCLIENTENCODING", "client_encoding"),
];

/// Whether such a variable may be passed over: psql would heed it.
pub(crate) fn variable(parameter: &str, value: &str) -> Result<(), Wrong> {
    libpqs(parameter, value).map_err(|Wrong { what, hint }| {
        let why = what.split_once("honoured: ").map_or(what.as_str(), |(_, why)| why);
        Wrong::new(format!("is set, and cannot be honoured: {why}"), hint)
    })
}

/// An address as libpq's lists of hosts and ports.
fn lists(address: &Address) -> (Option<String>, Option<String>) {
    let all = || {
        let first = (&address.host, &address.port);
        std::iter::once(first).chain(address.others.iter().map(|(host, port)| (host, port)))
    };
    let text = |texts: Vec<String>| Some(texts.join(",")).filter(|text| !text.is_empty());
    let ports: Vec<String> =
        all().map(|(_, port)| port.map(|port| port.to_string()).unwrap_or_default()).collect();
    // Commas without a port between them: none of them has one of its own.
    let has_ports = ports.iter().any(|port| !port.is_empty());
    let hosts = text(all().map(|(host, _)| host.clone().unwrap_or_default()).collect());
    (hosts, text(ports).filter(|_| has_ports))
}

/// Pairs hosts with ports as libpq does: one port is that of every host, and of several each host
/// has its own.
///
/// # Errors
/// There are not as many ports as hosts, or a port is not a number from 1 to 65535.
pub(crate) fn hosts(names: &str, ports: &str) -> Result<(Host, Vec<Host>), Wrong> {
    let local = Host::local();
    let ports: Vec<u16> = ports
        .split(',')
        .map(|text| if text.is_empty() { Ok(local.port) } else { port(text) })
        .collect::<Result<_, _>>()?;
    let names: Vec<&str> = names.split(',').collect();
    if ports.len() > 1 && ports.len() != names.len() {
        return Err(Wrong::new(
            format!("names {} hosts and {} ports", names.len(), ports.len()),
            "name one port for all hosts, or one for each: host1:5432,host2:5433",
        ));
    }
    let mut all = names.iter().zip(ports.iter().cycle()).map(|(name, port)| Host {
        name: if name.is_empty() { local.name.clone() } else { (*name).to_owned() },
        port: *port,
    });
    let first = all.next().unwrap_or_else(Host::local);
    Ok((first, all.collect()))
}

/// `host=a dbname=b`: a scheme would come first.
fn is_key_value(text: &str) -> bool {
    let key = text.trim_start().split('=').next().unwrap_or_default().trim_end();
    text.contains('=')
        && !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Reads a port.
///
/// # Errors
/// The text is not a number from 1 to 65535.
pub(crate) fn port(text: &str) -> Result<u16, Wrong> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Wrong::new("the port is not a number from 1 to 65535", ""))
}

pub(crate) fn seconds(text: &str) -> Result<Duration, Wrong> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err(Wrong::new(
            "connect_timeout is not 1 to 300 seconds",
            "write a number of seconds, without a unit, as libpq does",
        )),
    }
}
