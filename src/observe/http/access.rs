//! Who asks, and what they may see.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// What is asked of a request before it is answered.
#[derive(Debug)]
pub(super) struct AccessRules {
    token: Mutex<Option<Secret>>,
    /// Only this machine can reach the port.
    is_loopback: bool,
}

impl AccessRules {
    pub(super) fn new(token: Option<Secret>, address: SocketAddr) -> Self {
        Self { token: Mutex::new(token), is_loopback: address.ip().is_loopback() }
    }

    /// From now on this is the token, and the one before no longer.
    pub(super) fn renew(&self, token: Secret) {
        *self.token() = Some(token);
    }

    fn token(&self) -> MutexGuard<'_, Option<Secret>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody could show a token.
    pub(super) fn has_token(&self) -> bool {
        self.token().is_some()
    }

    /// It may see what the process does: it shows the token, or none is asked for.
    pub(super) fn may_see(&self, headers: &HeaderMap) -> bool {
        !self.has_token() || self.shows_token(headers)
    }

    /// It may change something: never without a token, and never with what a browser sends
    /// along by itself.
    pub(super) fn may_act(&self, headers: &HeaderMap) -> bool {
        self.shows_token(headers)
    }

    fn shows_token(&self, headers: &HeaderMap) -> bool {
        let token = self.token();
        let Some(token) = &*token else { return false };
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let shown = match shown.split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => shown,
            _ => return false,
        };
        // In the same time, however much of it is right.
        shown.trim_ascii().ct_eq(token.expose().trim().as_bytes()).into()
    }

    /// It names a host that it can mean. A page elsewhere may have its own name point to
    /// 127.0.0.1, and read what a browser on this machine can: such a name is not taken where
    /// only this machine can ask, and no token is asked for.
    /// `in_target` is the host of a request's target, where it is a whole URI.
    pub(super) fn takes_host(&self, headers: &HeaderMap, in_target: Option<&str>) -> bool {
        if !self.is_loopback || self.has_token() {
            return true;
        }
        let named = headers.get(HOST).is_none_or(|host| host.to_str().is_ok_and(is_local));
        named && in_target.is_none_or(is_local)
    }
}

/// It leaves open which host it means, and each one between here and there may take another.
pub(super) fn has_two_hosts(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().count() > 1
}

/// `localhost` or an address, with or without a port.
fn is_local(host: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// A page of another origin asks.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match (headers.contains_key(ORIGIN), text(ORIGIN), text(HOST)) {
        (false, ..) => false,
        (true, Some(origin), Some(host)) => {
            origin.split_once("://").map(|(_, origin)| origin) != Some(host)
        }
        (true, ..) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(token: Option<&str>, address: &str) -> AccessRules {
        AccessRules::new(token.map(Secret::new), address.parse().unwrap())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn a_token_is_shown_in_full_or_not_at_all() {
        let rules = rules(Some("s3cret"), "127.0.0.1:1");
        for (shown, is_right) in [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3cretx", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("s3cret", false),
            ("Basic s3cret", false),
            ("Bearer ß", false),
        ] {
            let headers = headers(&[("authorization", shown)]);
            assert_eq!(rules.may_see(&headers), is_right, "{shown}");
            assert_eq!(rules.may_act(&headers), is_right, "{shown}");
        }
        let cookie = headers(&[("cookie", "authorization=Bearer s3cret")]);
        assert!(!rules.may_see(&cookie) && !rules.may_act(&cookie));
    }

    #[test]
    fn without_a_token_all_may_see_and_nobody_may_act() {
        let rules = rules(None, "127.0.0.1:1");
        let headers = headers(&[("authorization", "Bearer ")]);
        assert!(rules.may_see(&headers) && !rules.may_act(&headers));
    }

    #[test]
    fn a_name_that_points_here_is_not_taken_on_loopback() {
        let host = |host| headers(&[("host", host)]);
        let open = rules(None, "127.0.0.1:8976");
        for (name, is_taken) in [
            ("localhost", true),
            ("LOCALHOST:8976", true),
            ("127.0.0.1:8976", true),
            ("[::1]:8976", true),
            ("[::1]", true),
            ("evil.example:8976", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(open.takes_host(&host(name), None), is_taken, "{name}");
        }
        assert!(open.takes_host(&HeaderMap::new(), None), "HTTP/1.0 names none");
        assert!(open.takes_host(&host("localhost"), Some("[::1]")));
        assert!(!open.takes_host(&host("localhost"), Some("evil.example")));
        assert!(rules(None, "0.0.0.0:1").takes_host(&host("pgoutbox:8976"), None));
        assert!(rules(Some("t"), "127.0.0.1:1").takes_host(&host("pgoutbox.example"), None));
    }

    #[test]
    fn one_host_is_named() {
        assert!(!has_two_hosts(&headers(&[("host", "localhost")])));
        assert!(has_two_hosts(&headers(&[("host", "localhost"), ("host", "evil.example")])));
    }

    #[test]
    fn a_page_elsewhere_is_foreign() {
        let origin = |origin| headers(&[("host", "127.0.0.1:8976"), ("origin", origin)]);
        assert!(!is_foreign(&headers(&[("host", "127.0.0.1:8976")])));
        assert!(!is_foreign(&origin("http://127.0.0.1:8976")));
        for foreign in ["http://evil.example", "null", "http://127.0.0.1:8977", "127.0.0.1:8976"] {
            assert!(is_foreign(&origin(foreign)), "{foreign}");
        }
    }
}
