//! A span, and the request that brings spans to a collector: OTLP's own messages, filled in by
//! OpenTelemetry's conventions for messaging.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as Sent, Status};

use crate::core::event::POSTGRES_EPOCH_MICROS;
use crate::core::span::{Context, Span};

/// Of a span's flags: it is known whether the context that it hangs on is another process', and
/// it is.
const IS_REMOTE: u32 = 0x300;
/// The version of the conventions that names and attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The broker that spans are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanServer {
    /// Host name or address.
    pub address: String,
    /// Port.
    pub port: u16,
}

/// The request that brings these spans. Their ids are made of what `random` gives.
pub(super) fn request<'a>(
    service_name: &str,
    spans: impl Iterator<Item = (&'a SpanServer, &'a Span)>,
    mut random: impl FnMut() -> u64,
) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let scope = InstrumentationScope {
        name: "pgoutbox".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.map(|(server, span)| sent(server, span, span_id(&mut random))).collect();
    let resource = Resource {
        attributes: vec![text("service.name", service_name), text("service.version", version)],
        ..Resource::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans,
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

/// All zeros would be no id.
fn span_id(random: &mut impl FnMut() -> u64) -> Vec<u8> {
    random().max(1).to_be_bytes().to_vec()
}

fn sent(server: &SpanServer, span: &Span, span_id: Vec<u8>) -> Sent {
    let Context { trace_id, span_id: parent, flags, state } = &span.context;
    let flags = u32::from(*flags) | IS_REMOTE;
    let began = unix_nanos(span.began_micros);
    Sent {
        trace_id: trace_id.to_vec(),
        span_id,
        trace_state: state.clone(),
        parent_span_id: parent.to_vec(),
        flags,
        name: name(&span.exchange),
        kind: SpanKind::Producer.into(),
        start_time_unix_nano: began,
        // Two machines, two clocks.
        end_time_unix_nano: unix_nanos(span.ended_micros).max(began),
        attributes: attributes(server, span),
        links: vec![Link {
            trace_id: trace_id.to_vec(),
            span_id: parent.to_vec(),
            trace_state: state.clone(),
            flags,
            ..Link::default()
        }],
        status: span
            .refusal
            .as_ref()
            .map(|(_, what)| Status { message: what.clone(), code: StatusCode::Error.into() }),
        ..Sent::default()
    }
}

/// Without the routing key: that may hold ids, and names are what spans are grouped by.
fn name(exchange: &str) -> String {
    format!("publish {exchange}").trim_end().to_owned()
}

fn attributes(server: &SpanServer, span: &Span) -> Vec<KeyValue> {
    let Span { exchange, routing_key, message_id, .. } = span;
    let destination = match (exchange.as_str(), routing_key.as_str()) {
        (exchange, "") => exchange.to_owned(),
        ("", routing_key) => routing_key.to_owned(),
        (exchange, routing_key) => format!("{exchange}:{routing_key}"),
    };
    let mut attributes = vec![
        text("messaging.system", "rabbitmq"),
        text("messaging.operation.name", "publish"),
        text("messaging.operation.type", "send"),
        text("server.address", &server.address),
        attribute("server.port", Value::IntValue(server.port.into())),
    ];
    let known = [
        ("messaging.destination.name", destination.as_str()),
        ("messaging.rabbitmq.destination.routing_key", routing_key),
        ("messaging.message.id", message_id),
        ("error.type", span.refusal.as_ref().map_or("", |(reason, _)| reason)),
    ];
    let known = known.into_iter().filter(|(_, value)| !value.is_empty());
    attributes.extend(known.map(|(key, value)| text(key, value)));
    attributes
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = Some(AnyValue { value: Some(value) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Nanoseconds since 1970.
fn unix_nanos(micros: i64) -> u64 {
    let micros = micros.saturating_add(POSTGRES_EPOCH_MICROS);
    u64::try_from(micros).unwrap_or(0).saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn span() -> Span {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        Span {
            context: Context::read(traceparent, Some("a=b")).unwrap(),
            began_micros: 0,
            ended_micros: 1_500,
            message_id: "id".to_owned(),
            exchange: "outbox".to_owned(),
            routing_key: "order.created".to_owned(),
            refusal: None,
        }
    }

    fn server() -> SpanServer {
        SpanServer { address: "mq.example".to_owned(), port: 5672 }
    }

    fn sent_of(span: &Span) -> Sent {
        let server = server();
        let request = request("shop", [(&server, span)].into_iter(), || 7);
        let [resource] = &request.resource_spans[..] else { panic!("{request:?}") };
        let [scope] = &resource.scope_spans[..] else { panic!("{request:?}") };
        let [sent] = &scope.spans[..] else { panic!("{request:?}") };
        sent.clone()
    }

    fn value(sent: &Sent, key: &str) -> Option<Value> {
        let found: Vec<_> = sent.attributes.iter().filter(|pair| pair.key == key).collect();
        assert!(found.len() < 2, "{key} stands there twice: the standard forbids it");
        found.first()?.value.clone()?.value
    }

    fn text_of(sent: &Sent, key: &str) -> String {
        match value(sent, key) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn a_delivered_event() {
        let sent = sent_of(&span());
        assert_eq!(sent.name, "publish outbox");
        assert_eq!(sent.kind(), SpanKind::Producer);
        assert_eq!(sent.start_time_unix_nano, 946_684_800_000_000_000);
        assert_eq!(sent.end_time_unix_nano, 946_684_800_001_500_000);
        assert_eq!(sent.flags, 0x301);
        assert_eq!(sent.span_id, [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(sent.status, None, "the standard has `unset` for what went well");
        let [link] = &sent.links[..] else { panic!("{sent:?}") };
        assert_eq!((&link.trace_id, &link.span_id), (&sent.trace_id, &sent.parent_span_id));
        assert_eq!((link.flags, link.trace_state.as_str()), (0x301, "a=b"));
        for (key, expected) in [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "outbox:order.created"),
            ("messaging.rabbitmq.destination.routing_key", "order.created"),
            ("messaging.message.id", "id"),
            ("server.address", "mq.example"),
        ] {
            assert_eq!(text_of(&sent, key), expected, "{key}");
        }
        assert_eq!(value(&sent, "server.port"), Some(Value::IntValue(5672)));
        assert_eq!(value(&sent, "error.type"), None);
    }

    #[test]
    fn a_refused_event_is_an_error() {
        let refusal = Some(("returned", "no queue took it".to_owned()));
        let sent = sent_of(&Span { refusal, ..span() });
        let status = sent.status.clone().unwrap();
        assert_eq!(status.code(), StatusCode::Error);
        assert_eq!(status.message, "no queue took it");
        assert_eq!(text_of(&sent, "error.type"), "returned");
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let nothing = String::new;
        let sent = sent_of(&Span {
            message_id: nothing(),
            exchange: nothing(),
            routing_key: nothing(),
            ..span()
        });
        assert_eq!(sent.name, "publish");
        for key in [
            "messaging.destination.name",
            "messaging.rabbitmq.destination.routing_key",
            "messaging.message.id",
        ] {
            assert_eq!(value(&sent, key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn times_and_ids_are_sound(began: i64, ended: i64, randoms: [u64; 3]) {
            let server = server();
            let span = Span { began_micros: began, ended_micros: ended, ..span() };
            let all = randoms.iter().map(|_| (&server, &span));
            let mut left = randoms.iter();
            let request = request("shop", all, || *left.next().unwrap());
            let sent = &request.resource_spans[0].scope_spans[0].spans;
            prop_assert_eq!(sent.len(), randoms.len());
            for (sent, random) in sent.iter().zip(randoms) {
                prop_assert!(sent.start_time_unix_nano <= sent.end_time_unix_nano);
                prop_assert_eq!(sent.span_id.len(), 8);
                prop_assert!(sent.span_id.iter().any(|byte| *byte != 0));
                prop_assert!(random == 0 || sent.span_id == random.to_be_bytes());
            }
            let bytes = request.encode_to_vec();
            prop_assert_eq!(ExportTraceServiceRequest::decode(&*bytes).unwrap(), request);
        }
    }
}
