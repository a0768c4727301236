//! Spans for a collector: what is in them, and that events go on whatever the collector does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use harness::certs::Authority;
use harness::collector::{Answer, Collector};
use harness::events::{Events, event};
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::{http, wait_for};
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio::net::{TcpListener, TcpStream};

use crate::bare::{arrived, id, text, uuid};
use crate::setting::{PATIENCE, Setting};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// What spans that nobody can send may add to a drain.
const LAST: Duration = Duration::from_secs(3);

/// The span that an event of this number was written in.
fn parent(number: u32) -> String {
    format!("{:016x}", 0xb7ad_0000 + number)
}

fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{TRACE}-{}-{flags}", parent(number))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const SOON: Settings = &[("parking.backoff_min", "100ms"), ("parking.backoff_max", "200ms")];
const TRACED: &str =
    "ALTER TABLE outbox_messages ADD COLUMN traceparent text, ADD COLUMN tracestate text";

fn traced(number: u32, topic: &str, traceparent: &str) -> Events {
    let parent = format!("'{traceparent}'");
    event(number, topic).column("traceparent", &parent).column("tracestate", "'congo=1'")
}

/// So many events of sampled traces, each in a transaction of its own.
async fn insert_many(setting: &Setting, count: u32) -> Result<()> {
    let client = setting.client().await?;
    let mut sql = String::new();
    for number in 1..=count {
        sql += &format!(
            "BEGIN; INSERT INTO outbox_messages (id, topic, payload, traceparent)
             VALUES ('{}', 'many', '{{}}', '{}'); COMMIT;",
            uuid(number),
            traceparent(number, "01")
        );
    }
    Ok(client.batch_execute(&sql).await?)
}

/// All spans that came, in their order.
fn spans(collector: &Collector) -> Result<Vec<Span>> {
    let mut all = Vec::new();
    for request in collector.requests() {
        let request = ExportTraceServiceRequest::decode(&*request.body)?;
        for resource in request.resource_spans {
            all.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    Ok(all)
}

async fn came(collector: &Collector, relay: &Relay, count: usize) -> Result<Vec<Span>> {
    wait_for(&format!("{count} spans"), PATIENCE, async || {
        let spans = spans(collector)?;
        Ok((spans.len() >= count).then_some(spans))
    })
    .await
    .with_context(|| format!("{:?}\n{}", spans(collector), relay.log()))
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

/// One of `pgoutbox_spans_total`.
async fn counted(relay: &Relay, outcome: &str) -> Result<u64> {
    let metrics = http::get(relay.http(PATIENCE).await?, "/metrics").await?.body;
    let name = format!("pgoutbox_spans_total{{outcome=\"{outcome}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    Ok(line.with_context(|| metrics.clone())?.parse()?)
}

async fn until_counted(relay: &Relay, outcome: &str, least: u64) -> Result<u64> {
    wait_for(&format!("{least} spans {outcome}"), PATIENCE, async || {
        let count = counted(relay, outcome).await?;
        Ok((count >= least).then_some(count))
    })
    .await
    .with_context(|| relay.log())
}

/// Lines of the log that warn of spans.
fn warnings(relay: &Relay) -> Vec<String> {
    let log = relay.log();
    let lines = log.lines().filter(|line| line.contains("WARN") && line.contains("spans"));
    lines.map(str::to_owned).collect()
}

fn nanos(time: SystemTime) -> Result<u128> {
    Ok(time.duration_since(SystemTime::UNIX_EPOCH)?.as_nanos())
}

#[tokio::test]
async fn a_sampled_event_has_a_span_and_its_message_is_as_it_was() -> Result<()> {
    let collector = Collector::start().await?;
    let setting = Scenario::with(SOON)
        .set("otlp.endpoint", &collector.url())
        .sql(TRACED)
        .set("otlp.headers", "x-key=hunter2%2C")
        .set("otlp.service_name", "shop")
        .setting()
        .await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    let before = nanos(SystemTime::now())?;
    setting.insert(traced(1, "by.column", &traceparent(1, "01"))).await?;
    setting.insert(traced(2, "unsampled", &traceparent(2, "00"))).await?;
    setting.insert(traced(3, "malformed", &traceparent(3, "1"))).await?;
    setting
        .sql(&format!(
            "INSERT INTO outbox_messages (id, topic, payload) VALUES ('{}', 'none', '{{}}');
             INSERT INTO outbox_messages (id, topic, payload, headers, traceparent)
             VALUES ('{}', 'by.header', '{{}}', '{{\"traceparent\": \"{}\"}}', 'the header goes before')",
            uuid(4),
            uuid(5),
            traceparent(5, "03")
        ))
        .await?;
    let delivered = arrived(&consumer, 5).await?;
    // The broker may deliver a message before the relay has its confirm.
    until_counted(&relay, "exported", 2).await?;
    let after = nanos(SystemTime::now())?;
    let http = relay.http(PATIENCE).await?;
    let status = http::get(http, "/status").await?.body;
    relay.drain(PATIENCE).await?;

    let request = &collector.requests()[0];
    let head = request.head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf\r\n"), "{head}");
    assert!(head.contains("x-key: hunter2,\r\n"), "{head}");
    assert!(!relay.log().contains("hunter2") && !status.contains("hunter2"));
    let resource = ExportTraceServiceRequest::decode(&*request.body)?.resource_spans;
    let resource = resource[0].resource.clone().context("a resource")?;
    assert!(format!("{resource:?}").contains("shop"), "{resource:?}");

    let spans = spans(&collector)?;
    assert_eq!(spans.len(), 2, "{spans:?}");
    for (span, (number, topic, flags)) in
        spans.iter().zip([(1, "by.column", 0x301), (5, "by.header", 0x303)])
    {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), parent(number));
        let [link] = &span.links[..] else { panic!("{span:?}") };
        assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (TRACE.into(), parent(number)));
        assert_eq!((span.flags, link.flags), (flags, flags));
        assert_eq!(span.kind(), SpanKind::Producer);
        assert_eq!((span.name.as_str(), &span.status), ("publish outbox", &None));
        let [began, ended] = [span.start_time_unix_nano, span.end_time_unix_nano].map(u128::from);
        // Postgres counts in microseconds.
        assert!(before < began + 1_000 && began < ended && ended < after, "{span:?}");
        for (key, value) in [
            ("messaging.message.id", uuid(number)),
            ("messaging.destination.name", format!("outbox:{topic}")),
            ("messaging.rabbitmq.destination.routing_key", topic.to_owned()),
            ("server.address", "127.0.0.1".to_owned()),
        ] {
            assert_eq!(attribute(span, key), Some(value), "{key}");
        }
    }
    assert_eq!(spans[0].links[0].trace_state, "congo=1");
    assert_ne!(spans[0].span_id, spans[1].span_id);
    for delivery in delivered {
        let has = text(&delivery, "traceparent").map(str::to_owned);
        let expected = match id(&delivery) {
            id if id == uuid(1) => Some(traceparent(1, "01")),
            id if id == uuid(2) => Some(traceparent(2, "00")),
            id if id == uuid(3) => Some(traceparent(3, "1")),
            id if id == uuid(5) => Some(traceparent(5, "03")),
            _ => None,
        };
        assert_eq!(has, expected, "{}", id(&delivery));
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_event_is_an_error_until_it_is_delivered() -> Result<()> {
    let collector = Collector::start().await?;
    let (setting, consumer, relay) =
        Scenario::with(SOON).set("otlp.endpoint", &collector.url()).sql(TRACED).run("good").await?;
    setting.insert(traced(1, "late", &traceparent(1, "01"))).await?;
    let refused = came(&collector, &relay, 2).await?;
    for span in &refused {
        let status = span.status.clone().context("a status")?;
        assert_eq!(status.code, 2, "{span:?}");
        assert!(status.message.contains("NO_ROUTE"), "{status:?}");
        assert_eq!(attribute(span, "error.type").as_deref(), Some("returned"));
        assert_eq!(hex(&span.parent_span_id), parent(1));
    }
    let channel = setting.channel().await?;
    let options = QueueBindOptions::default();
    let (queue, exchange) = ("consumer".into(), "outbox".into());
    channel.queue_bind(queue, exchange, "late".into(), options, FieldTable::default()).await?;
    arrived(&consumer, 1).await?;
    relay.drain(PATIENCE).await?;
    let spans = spans(&collector)?;
    let last = spans.last().context("a span")?;
    assert_eq!((&last.status, attribute(last, "error.type")), (&None, None), "{last:?}");
    let failed = spans.iter().filter(|span| span.status.is_some()).count();
    assert_eq!(failed + 1, spans.len(), "one for each try, the last one good: {spans:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_found_again() -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], harness::free_port()?));
    let setting = Scenario::with(SOON)
        .set("otlp.endpoint", &format!("http://{address}"))
        .sql(TRACED)
        .setting()
        .await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    insert_many(&setting, 20).await?;
    consumer.wait_distinct(20, PATIENCE).await?;
    relay.wait_for_log("spans cannot be exported", PATIENCE).await?;
    let collector = Collector::start_at(address).await?;
    assert_eq!(came(&collector, &relay, 20).await?.len(), 20);
    relay.wait_for_log("are exported to", PATIENCE).await?;
    setting.insert(traced(21, "again", &traceparent(21, "01"))).await?;
    came(&collector, &relay, 21).await?;
    relay.drain(PATIENCE).await?;
    let told = warnings(&relay);
    assert!(told.len() == 1 && told[0].contains(&address.to_string()), "{told:?}");
    assert_eq!(collector.connections(), 1, "the connection is kept");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_no_event() -> Result<()> {
    const EVENTS: u32 = 4_000;
    let collector = Collector::start().await?;
    collector.answer(Answer::Silence);
    let setting = Scenario::with(SOON)
        .set("otlp.endpoint", &collector.url())
        .sql(TRACED)
        .set("otlp.timeout", "60s")
        .setting()
        .await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    insert_many(&setting, EVENTS).await?;
    consumer.wait_distinct(EVENTS.try_into()?, PATIENCE).await?;
    setting.all_marked().await?;
    // One batch is on its way, the queue is full.
    let dropped = until_counted(&relay, "dropped", 1).await?;
    assert!(dropped <= u64::from(EVENTS) - 2_048, "{dropped}");
    assert_eq!(counted(&relay, "exported").await?, 0);
    let began = std::time::Instant::now();
    relay.drain(PATIENCE).await?;
    assert!(began.elapsed() >= LAST, "it has waited: {:?}", began.elapsed());
    assert!(began.elapsed() < LAST * 10, "and not for long: {:?}", began.elapsed());
    let log = relay.log();
    assert!(log.contains("the last spans could not be sent in time"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_reload_turns_spans_on_and_off() -> Result<()> {
    let collector = Collector::start().await?;
    let file = NamedTempFile::with_suffix(".toml")?;
    let setting = Scenario::with(SOON).set("otlp.endpoint", "off").sql(TRACED).setting().await?;
    // A variable would go before the file.
    let mut program = setting.program.clone().env("PGOUTBOX_OTLP__ENDPOINT", collector.url());
    program = program.env("PGOUTBOX_CONFIG", file.path());
    std::fs::write(file.path(), "[otlp]\ntraces_endpoint = \"off\"\n")?;
    let consumer = setting.consumer().await?;
    let relay = program.spawn(&["run"])?;
    setting.insert(traced(1, "off", &traceparent(1, "01"))).await?;
    consumer.wait_distinct(1, PATIENCE).await?;
    for (text, number) in [("", 2), ("[otlp]\nservice_name = \"shop\"\n", 3)] {
        std::fs::write(file.path(), text)?;
        relay.hangup()?;
        let goes_on = || relay.log().matches("now running with the new configuration").count();
        harness::wait_until("the new configuration", PATIENCE, async || {
            Ok(goes_on() + 1 == usize::try_from(number)?)
        })
        .await?;
        setting.insert(traced(number, "on", &traceparent(number, "01"))).await?;
        consumer.wait_distinct(usize::try_from(number)?, PATIENCE).await?;
    }
    relay.drain(PATIENCE).await?;
    let parents: Vec<_> = spans(&collector)?.iter().map(|span| hex(&span.parent_span_id)).collect();
    assert_eq!(parents, [parent(2), parent(3)]);
    Ok(())
}

#[tokio::test]
async fn a_collector_that_refuses_is_logged_with_a_hint() -> Result<()> {
    let collector = Collector::start().await?;
    collector.answer(Answer::Code(401, b"hunter2".to_vec()));
    let setting =
        Scenario::with(SOON).set("otlp.endpoint", &collector.url()).sql(TRACED).setting().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    insert_many(&setting, 3).await?;
    consumer.wait_distinct(3, PATIENCE).await?;
    until_counted(&relay, "failed", 3).await?;
    let told = warnings(&relay);
    assert!(told.len() == 1 && told[0].contains("401"), "{told:?}");
    assert!(told[0].contains("otlp.headers") && !told[0].contains("hunter2"), "{told:?}");
    // A part of a batch is another matter: the rest of it came through.
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".into() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) };
    collector.answer(Answer::Code(200, partial.encode_to_vec()));
    setting.insert(traced(4, "again", &traceparent(4, "01"))).await?;
    until_counted(&relay, "failed", 4).await?;
    collector.answer(Answer::Code(503, Vec::new()));
    setting.insert(traced(5, "again", &traceparent(5, "01"))).await?;
    came(&collector, &relay, 6).await?;
    collector.answer(Answer::Code(200, Vec::new()));
    until_counted(&relay, "exported", 1).await?;
    relay.drain(PATIENCE).await?;
    let times = |number| {
        let parent = parent(number);
        let spans = spans(&collector).unwrap_or_default();
        spans.iter().filter(|span| hex(&span.parent_span_id) == parent).count()
    };
    assert_eq!([1, 2, 3, 4].map(times), [1; 4], "a refusal is final");
    assert!(times(5) >= 2, "a 503 is not");
    assert_eq!(warnings(&relay), told, "it was one outage to the end");
    Ok(())
}

#[tokio::test]
async fn https_is_verified() -> Result<()> {
    let collector = Collector::start().await?;
    let (ours, theirs) = (Authority::new("ours")?, Authority::new("theirs")?);
    let address = behind_tls(&ours, collector.address()).await?;
    let files = tempfile::tempdir()?;
    for (name, authority) in [("ours.pem", &ours), ("theirs.pem", &theirs)] {
        std::fs::write(files.path().join(name), authority.pem())?;
    }
    let file = |name: &str| files.path().join(name).display().to_string();
    let setting = Scenario::with(SOON)
        .set("otlp.endpoint", &format!("https://{address}"))
        .sql(TRACED)
        .setting()
        .await?;
    let consumer = setting.consumer().await?;

    let relay = setting.clone().set("otlp.ca_file", &file("theirs.pem")).run()?;
    setting.insert(traced(1, "first", &traceparent(1, "01"))).await?;
    let line = relay.wait_for_log("spans cannot be exported", PATIENCE).await?;
    assert!(line.contains("certificate") && line.contains("otlp.ca_file"), "{line}");
    consumer.wait_distinct(1, PATIENCE).await?;
    relay.drain(PATIENCE).await?;
    assert_eq!(collector.requests().len(), 0);

    let relay = setting.clone().set("otlp.ca_file", &file("ours.pem")).run()?;
    setting.insert(traced(2, "second", &traceparent(2, "01"))).await?;
    let spans = came(&collector, &relay, 1).await?;
    assert_eq!(attribute(&spans[0], "messaging.message.id"), Some(uuid(2)));
    relay.drain(PATIENCE).await
}

/// A port that takes TLS and brings what comes to another one.
async fn behind_tls(authority: &Authority, to: SocketAddr) -> Result<SocketAddr> {
    let pair = authority.server(&["127.0.0.1"])?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.cert.as_bytes())?],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
        )?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut inner = acceptor.accept(stream).await?;
                let mut outer = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut inner, &mut outer).await
            });
        }
    });
    Ok(address)
}
