//! AMQP URLs, one per broker.

use std::time::Duration;

use super::address::{Address, SEVERAL, decode};
use super::raw::{Raw, Wrong};

/// What a URL says; `None` where it is silent.
#[derive(Clone, Default)]
pub(crate) struct AmqpUrl {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// Decoded, `/` where the URL has none.
    pub(crate) vhost: String,
    pub(crate) is_tls: bool,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) is_external: Option<bool>,
}

// By hand: the password must not show.
impl std::fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AmqpUrl(***)")
    }
}

/// Several brokers.
const WHOLE: &str = "write each broker as a whole URL: amqp://a/v,amqp://b/v";
const FORM: &str = "write it like amqp://user:password@host:5672/vhost, or amqps:// for TLS";

/// Reads one URL, several with commas between, or a list.
///
/// # Errors
/// Says what is wrong without repeating a URL.
pub(crate) fn parse_all(raw: &Raw) -> Result<Vec<AmqpUrl>, Wrong> {
    let urls = match raw {
        Raw::Text(text) | Raw::Untyped(text) => {
            split(text).into_iter().map(AmqpUrl::parse).collect::<Result<Vec<_>, _>>()?
        }
        Raw::List(items) => items
            .iter()
            .map(|item| match item {
                Raw::Text(text) => AmqpUrl::parse(text),
                _ => Err(Wrong::new("is a list of something else", FORM)),
            })
            .collect::<Result<Vec<_>, _>>()?,
        Raw::Integer(_) | Raw::Flag(_) | Raw::Other(_) => {
            return Err(Wrong::new("is not a text", FORM));
        }
    };
    match urls.is_empty() {
        true => Err(Wrong::new("is empty", FORM)),
        false => Ok(urls),
    }
}

/// Parts URLs at the commas before a scheme: a password may hold a comma too.
fn split(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest.get(from..).and_then(|tail| tail.find(',')) {
        let at = from + at;
        let (head, tail) = rest.split_at(at);
        let tail = tail.trim_start_matches(',').trim_start();
        if tail.starts_with("amqp://") || tail.starts_with("amqps://") {
            urls.push(head.trim());
            rest = tail;
            from = 0;
        } else {
            from = at + 1;
        }
    }
    urls.push(rest.trim().trim_end_matches(','));
    urls
}

impl AmqpUrl {
    /// Reads a URL. `amqp://host/` is taken for the virtual host `/`, as is `amqp://host//`:
    /// read to the letter the first means a nameless one, which RabbitMQ does not have.
    ///
    /// # Errors
    /// Says what is wrong without repeating the URL.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let address = Address::parse(text.trim()).map_err(|what| {
            let form = if what == SEVERAL { WHOLE } else { FORM };
            Wrong::new(format!("is not a URL: {what}"), form)
        })?;
        let is_tls = match address.scheme.as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(Wrong::new("is not an amqp:// or amqps:// URL", FORM)),
        };
        if address.is_ipv6 {
            return Err(Wrong::new(
                "has an IPv6 address, which the AMQP client cannot take",
                "give the broker a host name (DNS or /etc/hosts) and write that",
            ));
        }
        let host = match address.host {
            Some(host) if host.contains([',', '/', '@', ':']) => {
                return Err(Wrong::new("has no host name where one must stand", WHOLE));
            }
            Some(host) => host,
            None => return Err(Wrong::new("names no host", FORM)),
        };
        let vhost = match address.path.as_str() {
            "" | "/" | "//" => "/".to_owned(),
            path => path.strip_prefix('/').unwrap_or(path).to_owned(),
        };
        if vhost != "/" && vhost.contains('/') {
            return Err(Wrong::new(
                "has a `/` inside the virtual host's name",
                "take a closing `/` away; write %2F for one that belongs to the name",
            ));
        }
        let mut url = Self {
            host,
            port: address.port.unwrap_or(if is_tls { 5671 } else { 5672 }),
            user: address.user,
            password: address.password,
            vhost: decode(&vhost).map_err(|what| Wrong::new(what, FORM))?,
            is_tls,
            ..Self::default()
        };
        if url.vhost.len() > 255 {
            return Err(Wrong::new("has a virtual host of over 255 bytes", FORM));
        }
        for (key, value) in &address.query {
            url.parameter(key, value)?;
        }
        Ok(url)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        match key {
            "heartbeat" => match value.parse::<u64>() {
                Ok(seconds @ 1..=60) => self.heartbeat = Some(Duration::from_secs(seconds)),
                _ => {
                    return Err(Wrong::new(
                        "heartbeat is not 1 to 60 seconds",
                        "write a number of seconds; without heartbeats a dead broker goes unseen",
                    ));
                }
            },
            "connection_timeout" => match value.parse::<u64>() {
                Ok(ms @ 100..=300_000) => self.connect_timeout = Some(Duration::from_millis(ms)),
                _ => {
                    return Err(Wrong::new(
                        "connection_timeout is not 100 to 300000 milliseconds",
                        "write a number of milliseconds, or set amqp.connect_timeout",
                    ));
                }
            },
            "auth_mechanism" => match value.to_ascii_lowercase().as_str() {
                "plain" => self.is_external = Some(false),
                "external" => self.is_external = Some(true),
                _ => return Err(Wrong::new("auth_mechanism is not plain or external", "")),
            },
            "cacertfile" | "certfile" | "keyfile" => {
                return Err(Wrong::new(
                    format!("has the parameter `{key}`, which pgoutbox does not know"),
                    "set amqp.ca_file, amqp.cert_file and amqp.key_file instead",
                ));
            }
            _ => {
                return Err(Wrong::new(
                    format!("has the parameter `{key}`, which pgoutbox does not know"),
                    "leave it out; known are heartbeat, connection_timeout and auth_mechanism",
                ));
            }
        }
        Ok(())
    }
}
