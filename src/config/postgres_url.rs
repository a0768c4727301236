//! Postgres URLs: libpq's form, less what a relay cannot honour.

use std::time::Duration;

use super::TlsMode;
use super::address::{Address, decode};
use super::value::{Wrong, ssl_mode};

/// What a URL says; `None` where it is silent.
#[derive(Clone, Default)]
pub(crate) struct PostgresUrl {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
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
        let address = Address::parse(text.trim())
            .map_err(|what| Wrong::new(format!("is not a URL: {what}"), FORM))?;
        if !["postgres", "postgresql"].contains(&address.scheme.as_str()) {
            return Err(Wrong::new("is not a postgres:// URL", FORM));
        }
        let path = address.path.strip_prefix('/').unwrap_or_default();
        let database = decode(path).map_err(|what| Wrong::new(what, FORM))?;
        if path.contains('/') {
            return Err(Wrong::new("has a `/` after the database's name", FORM));
        }
        let mut url = Self {
            host: address.host,
            port: address.port,
            user: address.user,
            password: address.password,
            database: Some(database).filter(|name| !name.is_empty()),
            ..Self::default()
        };
        for (key, value) in &address.query {
            url.parameter(key, value)?;
        }
        let is_several = |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains(','));
        if is_several(&url.host) {
            return Err(Wrong::new(
                "names several hosts: a slot lives on one server",
                "name the primary, or an address that follows it",
            ));
        }
        Ok(url)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let text = Some(value.to_owned());
        match key {
            "host" => self.host = text,
            "port" => self.port = Some(port(value)?),
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
            _ => {
                return Err(Wrong::new(
                    format!("has the parameter `{key}`, which pgoutbox does not know"),
                    "leave it out; known are host, port, user, password, dbname, sslmode, \
                     sslrootcert, sslcert, sslkey, application_name and connect_timeout",
                ));
            }
        }
        Ok(())
    }
}

/// Reads a port.
///
/// # Errors
/// When it is not 1 to 65535.
pub(crate) fn port(text: &str) -> Result<u16, Wrong> {
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Wrong::new("the port is not a number from 1 to 65535", ""))
}

fn seconds(text: &str) -> Result<Duration, Wrong> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=300) => Ok(Duration::from_secs(seconds)),
        _ => Err(Wrong::new(
            "connect_timeout is not 1 to 300 seconds",
            "write a number of seconds, without a unit, as libpq does",
        )),
    }
}
