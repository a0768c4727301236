//! A URL of HTTP, as a setting names one.

use super::address::Address;
use super::raw::{Wrong, quote};

/// There is to be none.
pub(crate) const OFF: &str = "off";
const FORM: &str = "write it like http://127.0.0.1:4318 or https://collector.example";

/// Checks a URL. What may be a secret in one is refused, so that the rest can be shown.
///
/// # Errors
/// Says what is wrong; the text is repeated only where it cannot hold a login.
pub(crate) fn http_url(text: &str) -> Result<String, Wrong> {
    let text = text.trim();
    if text == OFF {
        return Ok(text.to_owned());
    }
    let address =
        Address::parse(text).map_err(|what| Wrong::new(format!("is not a URL: {what}"), FORM))?;
    if address.user.is_some() || address.password.is_some() || text.contains(['@', '?']) {
        let hint = "write a header such as Authorization into otlp.headers";
        return Err(Wrong::new("holds a login or parameters, which would be shown", hint));
    }
    if !matches!(address.scheme.as_str(), "http" | "https") {
        let what = format!("{} is not an http:// or https:// URL", quote(text));
        return Err(Wrong::new(what, FORM));
    }
    match (&address.host, address.path.parse::<hyper::Uri>()) {
        (None, _) => Err(Wrong::new(format!("{} names no host", quote(text)), FORM)),
        (_, Err(_)) if !address.path.is_empty() => {
            Err(Wrong::new(format!("{} has no path that can be asked for", quote(text)), FORM))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_shown_is_a_url() {
        for good in
            ["off", "http://127.0.0.1:4318", "https://[::1]/a/b", "http://collector", "http://h/"]
        {
            assert!(http_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "collector:4318",
            "grpc://h:4317",
            "http://",
            "http:///v1",
            "http://h?key=hunter2",
            "http://user:hunter2@h",
            "http://h/a?b#hunter2",
            "http://h/hunter2@x",
            "http://h:0",
        ] {
            let wrong = http_url(bad).unwrap_err();
            assert!(!wrong.what.contains("hunter2"), "{wrong:?}");
        }
    }
}
