//! The grammar that Postgres and AMQP URLs share, read without ever quoting a secret.
//!
//! Not `url::Url`: it refuses `postgres://user@/db`, which libpq allows, and invents a host
//! for others. Not `tokio_postgres::Config`: it cannot tell a missing port from 5432.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What need not be encoded in a part of a URL.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `scheme://[user[:password]@][host[:port]][/path][?key=value&…]`, decoded.
#[derive(Default)]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    /// `None` where the URL names none. IPv6 literals stand without brackets.
    pub(crate) host: Option<String>,
    pub(crate) is_ipv6: bool,
    pub(crate) port: Option<u16>,
    /// Further hosts behind commas, as libpq takes them, each with a port of its own.
    pub(crate) others: Vec<(Option<String>, Option<u16>)>,
    /// The path with its `/`, not decoded; empty where there is none.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
}

/// What is wrong with a URL: a fixed text, so that no part of a secret can slip into it.
type Wrong = &'static str;

/// Said wherever a special character may have been read as a separator.
const ENCODE: Wrong = "it does not read as scheme://user:password@host:port/name?key=value; \
     a special character in the user or password must be percent-encoded (`@` is %40, `/` is \
     %2F, `?` is %3F, `#` is %23, `%` is %25)";

/// A URL that may name only one.
pub(crate) const SEVERAL: Wrong = "it names several hosts";

impl Address {
    /// Reads a URL with one host.
    ///
    /// # Errors
    /// It is not an address, or names several; the URL's own text is never repeated.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let address = Self::parse_several(text)?;
        if address.others.is_empty() { Ok(address) } else { Err(SEVERAL) }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// The text is not an address; the fault says why in fixed words, and never repeats the URL.
    pub(crate) fn parse_several(text: &str) -> Result<Self, Wrong> {
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("it holds a space or a control character");
        }
        let (scheme, rest) = text.split_once("://").ok_or("it has no `://`")?;
        if rest.contains('#') {
            return Err(ENCODE);
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        // An `@` further on means that the password holds a `/` or `?`: all after it would be
        // taken for a name and shown.
        if path.contains('@') || query.contains('@') {
            return Err(ENCODE);
        }
        let mut address =
            Self { scheme: scheme.to_ascii_lowercase(), path: path.to_owned(), ..Self::default() };
        let server = match authority.rsplit_once('@') {
            None => authority,
            Some((login, _)) if login.contains('@') => return Err(ENCODE),
            Some((login, server)) => {
                address.login(login)?;
                server
            }
        };
        address.server(server)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or(ENCODE)?;
            // Keys are shown, so only what can be a key may pass for one.
            if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(ENCODE);
            }
            address.query.push((key.to_owned(), decode(value)?));
        }
        Ok(address)
    }

    fn login(&mut self, login: &str) -> Result<(), Wrong> {
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        if !user.is_empty() {
            self.user = Some(decode(user)?);
        }
        self.password = password.map(decode).transpose()?;
        Ok(())
    }

    fn server(&mut self, server: &str) -> Result<(), Wrong> {
        let mut places = server.split(',').map(place);
        (self.host, self.port) = places.next().unwrap_or(Ok((None, None)))?;
        self.is_ipv6 = server.starts_with('[');
        self.others = places.collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// A host and its port.
fn place(server: &str) -> Result<(Option<String>, Option<u16>), Wrong> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a `[` has no `]`")?;
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err(ENCODE),
            }
        }
        None => match server.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address must stand in `[` and `]`");
            }
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let host = if host.is_empty() { None } else { Some(decode(host)?) };
    let port = match port {
        None | Some("") => None,
        // Not a number: often a password with a `/` in it, so it is not repeated.
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(ENCODE)?),
    };
    Ok((host, port))
}

/// Decodes a percent-encoded part.
///
/// # Errors
/// What is decoded is not UTF-8, or a `%` is not followed by two hexadecimal digits.
pub(crate) fn decode(part: &str) -> Result<String, Wrong> {
    let mut escapes = part.split('%').skip(1);
    let is_escape =
        |text: &str| text.len() >= 2 && text.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !escapes.all(is_escape) {
        return Err(ENCODE);
    }
    let decoded =
        percent_decode_str(part).decode_utf8().map_err(|_| "it does not decode to UTF-8")?;
    match decoded.contains('\0') {
        true => Err("it holds a NUL character"),
        false => Ok(decoded.into_owned()),
    }
}

/// Percent-encodes a part.
pub(crate) fn encode(part: &str) -> String {
    utf8_percent_encode(part, PART).to_string()
}
