//! From settings to where spans go.

use hyper::header::{HeaderName, HeaderValue};

use super::address::{Address, decode};
use super::http_url::OFF;
use super::origin::ValueOrigin;
use super::problem::Problems;
use super::tls::{Files, NamedValue};
use super::values::Values;
use super::{Otlp, Renewal, Secret, Tls, TlsMode};

const ENDPOINT: &str = "otlp.endpoint";
const TRACES_ENDPOINT: &str = "otlp.traces_endpoint";
const HEADERS: &str = "otlp.headers";
const CA_FILE: &str = "otlp.ca_file";
/// What OTLP puts behind an endpoint that is not for one signal only.
const TRACES: &str = "/v1/traces";

/// `[otlp]`; `None` where no spans are wanted.
pub(crate) fn otlp(values: &Values, problems: &mut Problems) -> Option<Otlp> {
    let (key, url) = endpoint(values)?;
    // Checked when it was read.
    let address = Address::parse(&url).ok()?;
    let is_tls = address.scheme == "https";
    let path = match (key, address.path.as_str()) {
        (TRACES_ENDPOINT, "") => "/".to_owned(),
        (TRACES_ENDPOINT, path) => path.to_owned(),
        (_, path) => format!("{}{TRACES}", path.trim_end_matches('/')),
    };
    Some(Otlp {
        host: address.host?,
        port: address.port.unwrap_or(if is_tls { 443 } else { 80 }),
        path,
        tls: tls(values, is_tls, problems),
        headers: values
            .text(HEADERS)
            .map(|text| headers(values, &text, problems))
            .unwrap_or_default(),
        timeout: values.span("otlp.timeout"),
        service_name: values.text("otlp.service_name").unwrap_or_default(),
        renewal: Renewal::default(),
    })
}

/// The URL that counts: the one for spans alone, unless it is in a variable that other programs
/// read too and the other one was written for pgoutbox. `off` in either is no spans.
fn endpoint(values: &Values) -> Option<(&'static str, String)> {
    let is_shared = |key: &str| matches!(values.origin(key), ValueOrigin::SharedEnv(_));
    let found: Vec<_> = [TRACES_ENDPOINT, ENDPOINT]
        .into_iter()
        .filter_map(|key| values.text(key).map(|url| (key, url)))
        .collect();
    if found.iter().any(|(_, url)| url == OFF) {
        return None;
    }
    let own = found.iter().find(|(key, _)| !is_shared(key));
    own.or(found.first()).cloned()
}

fn tls(values: &Values, is_tls: bool, problems: &mut Problems) -> Tls {
    if !is_tls {
        return Tls::default();
    }
    let origin = values.origin(CA_FILE);
    let ca = values.text(CA_FILE).map(|path| NamedValue {
        value: origin.resolve(&path),
        origin,
        name: CA_FILE.to_owned(),
    });
    let files = Files { ca, ..Files::default() };
    files.check(problems);
    let content = files.content();
    let ca_file = files.ca.map(|file| file.value);
    Tls { mode: TlsMode::VerifyFull, ca_file, content, ..Tls::default() }
}

/// `key=value,key=value`, values percent-encoded, as the standard's variable has them.
fn headers(values: &Values, text: &str, problems: &mut Problems) -> Vec<(String, Secret)> {
    let mut read = Vec::new();
    for (at, pair) in text.split(',').map(str::trim).enumerate() {
        if pair.is_empty() {
            continue;
        }
        let found = pair.split_once('=').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim()).ok()?;
            let value = decode(value.trim()).ok()?;
            HeaderValue::try_from(&value).ok()?;
            Some((name.as_str().to_owned(), Secret::new(value)))
        });
        match found {
            Some(header) => read.push(header),
            // It may all be a secret, so only its place is named.
            None => problems.add(
                values.origin(HEADERS),
                HEADERS,
                format!("number {} of its headers cannot be read", at + 1),
                "write name=value, with commas between; percent-encode what is special in a value",
            ),
        }
    }
    read
}
