//! From settings to the brokers.

use std::time::Duration;

use super::address::{Address, encode};
use super::amqp_url::AmqpUrl;
use super::effective::EffectiveValues;
use super::kind::span;
use super::problem::Problems;
use super::shards::connection_name;
use super::tls::{Files, NamedValue};
use super::values::Values;
use super::{Amqp, Broker, Renewal, Secret, Tls, TlsMode};

const URL: &str = "amqp.url";

/// The section `[amqp]`; no brokers where none is named and none needed.
pub(crate) fn amqp(
    values: &Values,
    slot: &str,
    is_needed: bool,
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> Amqp {
    let urls = values.amqp_urls(URL);
    if is_needed && urls.is_empty() && !values.is_bad(URL) {
        let hint = "export AMQP_URL=amqp://user:password@host/vhost, or give --amqp-url, or set \
            amqp.url in the file";
        problems.add("", URL, "is not set: where is the broker?", hint);
    }
    let is_external = is_external(values, &urls, problems, shown);
    let tls = tls(values, &urls, is_external, problems);
    let brokers: Vec<Broker> =
        urls.iter().map(|url| broker(values, url, is_external, &tls)).collect();
    if !brokers.is_empty() {
        let urls: Vec<String> = brokers.iter().map(shown_url).collect();
        shown.set(URL, urls.join(","), values.origin(URL));
    }
    let mut timing = |key: &str, parameter: &str, said: fn(&AmqpUrl) -> Option<Duration>| {
        let text = same(&urls, said, parameter, values, problems);
        match text.filter(|_| !values.is_set(key)) {
            Some(duration) => {
                shown.set(key, span(duration), values.origin(URL));
                duration
            }
            None => values.span(key),
        }
    };
    let heartbeat = timing("amqp.heartbeat", "heartbeat", |url| url.heartbeat);
    let connect_timeout =
        timing("amqp.connect_timeout", "connection_timeout", |url| url.connect_timeout);
    let connection_name = values.text("amqp.connection_name").unwrap_or_else(|| {
        let name = connection_name(slot);
        shown.set("amqp.connection_name", name.clone(), "default");
        name
    });
    Amqp {
        brokers,
        heartbeat,
        connect_timeout,
        confirm_timeout: values.span("amqp.confirm_timeout"),
        blocked_timeout: values.span("amqp.blocked_timeout"),
        max_message_bytes: values.number("amqp.max_message_bytes"),
        connection_name,
        stream_port: values.size("amqp.stream_port").and_then(|port| u16::try_from(port).ok()),
        stream_addresses: stream_addresses(values, problems),
        renewal: Renewal::default(),
    }
}

/// Hosts, each with its port where it says one.
fn stream_addresses(values: &Values, problems: &mut Problems) -> Vec<(String, Option<u16>)> {
    const KEY: &str = "amqp.stream_addresses";
    let mut addresses = Vec::new();
    for (number, text) in (1..).zip(values.list(KEY)) {
        let is_plain = !text.contains(['/', '@', '?']);
        let read = Address::parse(&format!("rabbitmq-stream://{text}")).ok().filter(|_| is_plain);
        match read.and_then(|address| Some((address.host?, address.port))) {
            Some(address) => addresses.push(address),
            None => problems.add(
                values.origin(KEY),
                KEY,
                // Not repeated: somebody may have written a password into it.
                format!("has a number {number} that is no host:port"),
                "such as [\"mq.example.org:5552\"]; user, virtual host and TLS are those of amqp.url",
            ),
        }
    }
    addresses
}

/// What all URLs that say it agree on.
fn same<T: PartialEq>(
    urls: &[AmqpUrl],
    said: fn(&AmqpUrl) -> Option<T>,
    parameter: &str,
    values: &Values,
    problems: &mut Problems,
) -> Option<T> {
    let mut said = urls.iter().filter_map(said);
    let first = said.next()?;
    if said.any(|other| other != first) {
        let what = format!("gives the brokers different values of `{parameter}`");
        problems.add(values.origin(URL), URL, what, "give all the same");
    }
    Some(first)
}

fn is_external(
    values: &Values,
    urls: &[AmqpUrl],
    problems: &mut Problems,
    shown: &mut EffectiveValues,
) -> bool {
    let said = same(urls, |url| url.is_external, "auth_mechanism", values, problems);
    match said.filter(|_| !values.is_set("amqp.auth")) {
        Some(is_external) => {
            let word = if is_external { "external" } else { "plain" };
            shown.set("amqp.auth", word, values.origin(URL));
            is_external
        }
        None => values.text("amqp.auth").as_deref() == Some("external"),
    }
}

fn tls(values: &Values, urls: &[AmqpUrl], is_external: bool, problems: &mut Problems) -> Tls {
    let file = |key: &str| {
        let origin = values.origin(key);
        values.text(key).map(|path| NamedValue {
            value: origin.resolve(&path),
            origin,
            name: key.to_owned(),
        })
    };
    let files = Files {
        ca: file("amqp.ca_file"),
        cert: file("amqp.cert_file"),
        key: file("amqp.key_file"),
    };
    files.check(problems);
    let content = files.content();
    if urls.iter().any(|url| !url.is_tls) {
        for file in files.all() {
            let what = "is set, but amqp.url has a broker in plain text";
            problems.add(&file.origin, &file.name, what, "write amqps:// for every broker");
        }
    }
    if is_external && !urls.is_empty() {
        let origin = match values.is_set("amqp.auth") {
            true => values.origin("amqp.auth"),
            false => values.origin(URL),
        };
        let is_plain = urls.iter().any(|url| !url.is_tls);
        if is_plain || files.cert.is_none() && !values.is_bad("amqp.cert_file") {
            let what = "is external: the login is a client certificate, but there is none";
            let hint = "write amqps:// and set amqp.cert_file and amqp.key_file, or choose plain";
            problems.add(origin, "amqp.auth", what, hint);
        }
    }
    Tls {
        mode: TlsMode::VerifyFull,
        ca_file: files.ca.map(|file| file.value),
        cert_file: files.cert.map(|file| file.value),
        key_file: files.key.map(|file| file.value),
        content,
    }
}

fn broker(values: &Values, url: &AmqpUrl, is_external: bool, tls: &Tls) -> Broker {
    let guest = match url.user.is_none() && !is_external {
        true => "guest",
        false => "",
    };
    let password = values.text("amqp.password").or(url.password.clone());
    let place = if values.is_set("amqp.password") { "amqp.password" } else { URL };
    Broker {
        password_place: values.place(place),
        host: url.host.clone(),
        port: url.port,
        user: url.user.clone().unwrap_or_else(|| guest.to_owned()),
        password: Secret::new(password.unwrap_or_else(|| guest.to_owned())),
        vhost: url.vhost.clone(),
        tls: match url.is_tls {
            true => tls.clone(),
            false => Tls::default(),
        },
        is_external,
    }
}

/// A broker as a URL, its password masked.
fn shown_url(broker: &Broker) -> String {
    let (scheme, host) = match broker.tls.mode {
        TlsMode::Disable => ("amqp", &broker.host),
        _ => ("amqps", &broker.host),
    };
    let login = match (broker.user.as_str(), broker.password.expose()) {
        ("", "") => String::new(),
        (user, "") => format!("{}@", encode(user)),
        (user, _) => format!("{}:***@", encode(user)),
    };
    format!("{scheme}://{login}{host}:{}/{}", broker.port, encode(&broker.vhost))
}
