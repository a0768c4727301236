use std::io::Write as _;

use postgres_types::Type;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Flags, Needs, Sources};
use crate::core::event::pgoutput::{Column, Tuple};
use crate::core::event::stored::{Reader, StoredMessage};

/// A table with these lines of configuration.
pub(super) fn table_of(lines: &str) -> Table {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[[tables]]\nname = \"public.outbox_messages\"\n{lines}").unwrap();
    let sources = Sources {
        flags: Flags { config: Some(file.path().to_owned()), ..Flags::default() },
        ..Sources::default()
    };
    let config = Config::load(&sources, Needs::NONE);
    config.unwrap_or_else(|fault| panic!("{fault}")).tables.remove(0)
}

/// The columns of the tests' table, and the oids of their types.
const COLUMNS: [(&str, u32); 14] = [
    ("id", 2950),
    ("aggregate_type", 1043),
    ("aggregate_id", 20),
    ("event_type", 25),
    ("payload", 3802),
    ("headers", 3802),
    ("occurred_at", 1184),
    ("tenant", 25),
    ("count", 23),
    ("price", 1700),
    ("is_new", 16),
    ("bytes", 17),
    ("more", 114),
    ("odd.name:integer", 25),
];
/// A row of it.
const ROW: [Option<&str>; 14] = [
    Some("1b4e28ba-2fa1-11d2-883f-0016d3cca427"),
    Some("order"),
    Some("42"),
    Some("order.created"),
    Some(r#"{"a": 1}"#),
    Some(r#"{"trace":{"id":"t-1"},"delay":5000,"tenant":"from the row"}"#),
    Some("2026-11-30 12:00:00.123456+00"),
    Some("acme"),
    Some("7"),
    Some("12345678901234567890.50"),
    Some("t"),
    Some("\\x00ff"),
    Some(r#"{"b":[1,"x"]}"#),
    Some("odd"),
];

fn build_of(lines: &str, row: &[Option<&str>]) -> Result<Message, Refusal> {
    let table = table_of(lines);
    let columns = COLUMNS.map(|(name, type_oid)| Column { name: name.to_owned(), type_oid });
    let mut reader = Reader::new(0, &table, &columns).unwrap();
    let tuple = Tuple::of_texts(row.iter().map(|text| text.map(str::as_bytes))).unwrap();
    let limits = Limits { body: 1 << 20, header_frame: 131_064, stream: None };
    let StoredMessage { message, .. } = reader.build(&tuple, 0, Position::start(), limits)?;
    Ok(message)
}

fn build(lines: &str) -> Message {
    build_of(lines, &ROW).unwrap()
}

/// The row, with other texts in some columns.
fn row_with(changes: &[(&str, Option<&'static str>)]) -> Vec<Option<&'static str>> {
    let mut row = ROW.to_vec();
    for (name, text) in changes {
        row[COLUMNS.iter().position(|(column, _)| column == name).unwrap()] = *text;
    }
    row
}

fn header(message: &Message, name: &str) -> Option<AMQPValue> {
    message.properties().headers().as_ref()?.inner().get(name).cloned()
}

fn text_header(message: &Message, name: &str) -> String {
    match header(message, name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8(text.as_bytes().to_vec()).unwrap(),
        other => panic!("{name}: {other:?}"),
    }
}

fn json_body(message: &Message) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}

#[test]
fn every_property_can_be_made_of_columns_paths_and_constants() {
    let message = build(
        r#"
        [tables.properties]
        content_type = "application/vnd.{aggregate_type}+json"
        content_encoding = "identity"
        priority = "{count}"
        correlation_id = "{headers.trace.id}"
        reply_to = "answers.{tenant}"
        expiration = "{headers.delay}"
        timestamp = "2026-11-30T13:00:00+01:00"
        type = "{headers.kind} | v1.{event_type}"
        user_id = "{tenant}"
        app_id = "shop-{odd.name:integer}"
        "#,
    );
    let properties = message.properties();
    let short = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    assert_eq!(short(properties.content_type()).as_deref(), Some("application/vnd.order+json"));
    assert_eq!(short(properties.content_encoding()).as_deref(), Some("identity"));
    assert_eq!(*properties.priority(), Some(7));
    assert_eq!(short(properties.correlation_id()).as_deref(), Some("t-1"));
    assert_eq!(short(properties.reply_to()).as_deref(), Some("answers.acme"));
    assert_eq!(short(properties.expiration()).as_deref(), Some("5000"));
    assert_eq!(*properties.timestamp(), Some(1_796_040_000));
    assert_eq!(short(properties.kind()).as_deref(), Some("v1.order.created"));
    assert_eq!(short(properties.user_id()).as_deref(), Some("acme"));
    assert_eq!(short(properties.app_id()).as_deref(), Some("shop-odd"));
    assert_eq!(short(properties.message_id()).as_deref(), ROW[0], "the event's id, always");
    assert_eq!(*properties.delivery_mode(), Some(2));
}

#[test]
fn a_property_that_yields_nothing_is_left_out() {
    let row = row_with(&[("tenant", None), ("headers", None)]);
    let lines = r#"
        [tables.properties]
        reply_to = "answers.{tenant}"
        correlation_id = "{headers.trace.id}"
        priority = "{headers.priority}"
        timestamp = "{tenant}"
        content_type = "{headers.type}"
        [tables.headers]
        tenant = "{tenant}"
        trace = "{headers.trace.id}"
    "#;
    let message = build_of(lines, &row).unwrap();
    let properties = message.properties();
    assert_eq!(*properties.reply_to(), None);
    assert_eq!(*properties.correlation_id(), None);
    assert_eq!(*properties.priority(), None);
    assert_eq!(*properties.content_type(), None);
    assert_eq!(*properties.timestamp(), Some(1_796_040_000), "when it happened");
    assert_eq!((header(&message, "tenant"), header(&message, "trace")), (None, None));
}

#[test]
fn headers_have_types_and_go_before_the_rows_own() {
    let message = build(
        r#"
        [tables.headers]
        tenant = "{tenant}"
        "x-delay" = "{headers.delay:integer}"
        count = "{count}"
        price = "{price:number}"
        "is.new" = "{is_new:boolean}"
        bytes = "{bytes:base64}"
        more = "{more:json}"
        odd = "{odd.name:integer}"
        version = 3
        final = true
        "#,
    );
    assert_eq!(text_header(&message, "tenant"), "acme");
    assert_eq!(header(&message, "x-delay"), Some(AMQPValue::LongLongInt(5000)));
    assert_eq!(text_header(&message, "count"), "7", "text, where no type is said");
    assert_eq!(header(&message, "price"), Some(AMQPValue::Double(12_345_678_901_234_567_890.5)));
    assert_eq!(header(&message, "is.new"), Some(AMQPValue::Boolean(true)));
    assert_eq!(text_header(&message, "bytes"), "AP8=");
    assert!(matches!(header(&message, "more"), Some(AMQPValue::FieldTable(_))));
    assert_eq!(text_header(&message, "odd"), "odd", "a column of this very name");
    assert_eq!(header(&message, "version"), Some(AMQPValue::LongLongInt(3)));
    assert_eq!(header(&message, "final"), Some(AMQPValue::Boolean(true)));
    assert_eq!(text_header(&message, "pgoutbox-commit-lsn"), "00000000/00000000");
    assert_eq!(text_header(&message, "aggregate_id"), "42");
}

#[test]
fn a_body_is_an_object_of_columns_with_their_own_types() {
    let message = build(
        r#"
        [tables.body]
        id = "{id}"
        aggregate = "{aggregate_type}-{aggregate_id}"
        number = "{aggregate_id}"
        as_text = "{aggregate_id:text}"
        price = "{price}"
        is_new = "{is_new}"
        bytes = "{bytes}"
        data = "{payload}"
        trace = "{headers.trace}"
        nothing = "{headers.nothing}"
        version = 2
        [tables.body.meta]
        tenant = "{tenant}"
        "deep.er" = "{more.b.1}"
        "#,
    );
    let expected = json!({
        "id": ROW[0], "aggregate": "order-42", "number": 42, "as_text": "42", "is_new": true,
        "bytes": "AP8=", "data": {"a": 1}, "trace": {"id": "t-1"}, "nothing": null, "version": 2,
        "meta": {"tenant": "acme", "deep": {"er": "x"}},
    });
    let mut body = json_body(&message);
    assert!(std::str::from_utf8(&message.body).unwrap().contains("12345678901234567890.50"));
    body.as_object_mut().unwrap().remove("price");
    assert_eq!(body, expected);
}

#[test]
fn a_type_of_event_has_its_own_way() {
    let lines = r#"
        exchange = "events"
        routing_key = "{event_type}"
        [tables.events."order.created"]
        exchange = "orders"
        routing_key = "new.{aggregate_id}"
        [tables.events."order.paid"]
        exchange = "payments"
    "#;
    let names = |event_type: &'static str| {
        let message = build_of(lines, &row_with(&[("event_type", Some(event_type))])).unwrap();
        (message.exchange().to_owned(), message.routing_key().to_owned())
    };
    assert_eq!(names("order.created"), ("orders".to_owned(), "new.42".to_owned()));
    assert_eq!(names("order.paid"), ("payments".to_owned(), "order.paid".to_owned()));
    assert_eq!(names("other"), ("events".to_owned(), "other".to_owned()));
}

#[test]
fn a_cloud_event_in_binary_mode_has_its_attributes_as_headers() {
    let message = build(
        r#"
        [tables.cloudevents]
        mode = "binary"
        source = "/shop/{tenant}"
        [tables.cloudevents.extensions]
        partitionkey = "{aggregate_id}"
        isnew = "{is_new}"
        bytes = "{bytes}"
        "#,
    );
    for (name, text) in [
        ("specversion", "1.0"),
        ("id", ROW[0].unwrap()),
        ("source", "/shop/acme"),
        ("type", "order.created"),
        ("time", "2026-11-30T12:00:00.123456Z"),
        ("subject", "42"),
        ("partitionkey", "42"),
        ("isnew", "true"),
        ("bytes", "AP8="),
    ] {
        assert_eq!(text_header(&message, &format!("cloudEvents:{name}")), text);
    }
    assert_eq!(json_body(&message), json!({"a": 1}));
    let content_type = message.properties().content_type().clone().unwrap();
    assert_eq!(content_type.as_str(), "application/json");
    let other = build("[tables.cloudevents]\nmode = \"binary\"\nprefix = \"cloudEvents_\"");
    assert_eq!(text_header(&other, "cloudEvents_source"), "/public.outbox_messages");
    let rabbitmq = build("[tables.cloudevents]\nmode = \"binary\"\nprefix = \"ce-\"");
    assert_eq!(text_header(&rabbitmq, "ce-specversion"), "1.0");
}

#[test]
fn a_structured_cloud_event_holds_its_data_as_what_it_is() {
    let structured = "[tables.cloudevents]\nmode = \"structured\"\n";
    let extensions = "extensions = { count = \"{count}\", flag = true, price = \"{price}\" }";
    let message = build(&format!("{structured}{extensions}"));
    assert_eq!(
        json_body(&message),
        json!({
            "specversion": "1.0", "id": ROW[0], "source": "/public.outbox_messages",
            "type": "order.created", "time": "2026-11-30T12:00:00.123456Z", "subject": "42",
            "datacontenttype": "application/json", "count": 7, "flag": true,
            "price": "12345678901234567890.50", "data": {"a": 1},
        })
    );
    let content_type = message.properties().content_type().clone().unwrap();
    assert_eq!(content_type.as_str(), "application/cloudevents+json");
    let of = |column: &str, content_type: &str| {
        let columns = format!("columns = {{ payload = \"{column}\" }}\n");
        json_body(&build(&format!("{columns}content_type = \"{content_type}\"\n{structured}")))
    };
    assert_eq!(of("bytes", "application/octet-stream")["data_base64"], json!("AP8="));
    assert_eq!(of("tenant", "text/plain")["data"], json!("acme"));
    assert_eq!(of("more", "application/x+json; charset=utf-8")["data"], json!({"b": [1, "x"]}));
    let body = format!("{structured}[tables.body]\ntenant = \"{{tenant}}\"");
    assert_eq!(json_body(&build(&body))["data"], json!({"tenant": "acme"}));
    let none = json_body(&build_of(structured, &row_with(&[("payload", None)])).unwrap());
    assert!(none.get("data").is_none(), "{none}");
}

#[test]
fn what_a_row_cannot_fill_is_refused_by_name_and_never_repeated() {
    let structured = "[tables.cloudevents]\nmode = \"structured\"\n";
    for (lines, changes, what) in [
        ("properties = { priority = \"{tenant}\" }", ("tenant", "256"), "its priority"),
        ("properties = { expiration = \"{tenant}\" }", ("tenant", "-1"), "its expiration"),
        ("properties = { expiration = \"{tenant}\" }", ("tenant", "+1"), "its expiration"),
        ("properties = { reply_to = \"{tenant.a}\" }", ("tenant", "{secret"), "its reply_to"),
        ("headers = { x = \"{tenant:integer}\" }", ("tenant", "secret"), "\"x\" is not a whole"),
        ("headers = { x = \"{tenant:json}\" }", ("tenant", "{secret"), "\"x\" is not JSON"),
        ("body = { x = \"{tenant:number}\" }", ("tenant", "NaN"), "\"x\" is not a number"),
        (structured, ("event_type", ""), "its cloudevents.type is empty"),
    ] {
        let changes = [(changes.0, Some(changes.1).filter(|text| !text.is_empty()))];
        let refusal = build_of(lines, &row_with(&changes)).unwrap_err().to_string();
        assert!(refusal.contains(what), "{lines}: {refusal}");
        assert!(!refusal.contains("secret"), "{refusal}");
    }
    let text = "content_type = \"application/json\"\ncolumns = { payload = \"tenant\" }\n";
    let refusal = build_of(&format!("{text}{structured}"), &ROW).unwrap_err().to_string();
    assert!(refusal.contains("no JSON, as its content type says"), "{refusal}");
}

/// As it is written there, to the last digit.
#[test]
fn payload_and_headers_come_out_of_one_column() {
    let lines = r#"
        columns = { payload = "tenant" }
        envelope = { payload = "{tenant.value}", headers = "{tenant.meta.headers}" }
    "#;
    let of = |json: &'static str| build_of(lines, &row_with(&[("tenant", Some(json))]));
    let message =
        of(r#"{"meta":{"headers":{"who":"acme","n":3}},"value":{"price": 1.50}}"#).unwrap();
    assert_eq!(&message.body[..], br#"{"price": 1.50}"#);
    assert_eq!(text_header(&message, "who"), "acme");
    assert_eq!(header(&message, "n"), Some(AMQPValue::LongLongInt(3)));
    assert_eq!(header(&message, "delay"), None, "the column is not asked");
    let message = of(r#"{"value":"text"}"#).unwrap();
    assert_eq!(&message.body[..], br#""text""#);
    let message = of(r#"{"value":null}"#).unwrap();
    assert_eq!(&message.body[..], b"");
    let structured = format!("{lines}\ncloudevents = {{ mode = \"structured\" }}");
    let row = row_with(&[("tenant", Some(r#"{"value":null}"#))]);
    assert!(json_body(&build_of(&structured, &row).unwrap()).get("data").is_none());
    let refusal = of("{secret").unwrap_err().to_string();
    assert!(refusal.contains("no JSON") && !refusal.contains("secret"), "{refusal}");
}

#[test]
fn a_mapping_that_cannot_be_is_an_error_that_lists_the_columns() {
    for (lines, what) in [
        (
            "headers = { x = \"{nowhere}\" }",
            "headers.x of public.outbox_messages names \"nowhere\"",
        ),
        ("headers = { x = \"{tenant.}\" }", "names \"tenant.\""),
        ("body = { x = \"{nowhere.a}\" }", "its columns are id, aggregate_type"),
        ("properties = { type = \"{count:integer}\" }", "is text, and has no type"),
        (
            "headers = { x = \"{count:integer} | {tenant:text}\" }",
            "headers.x of public.outbox_messages has two",
        ),
        ("envelope = { payload = \"{nowhere.a}\" }", "envelope.payload of"),
        ("envelope = { payload = \"a {more.b}\" }", "must be one place in a column"),
        ("envelope = { headers = \"{more.b} | {more.c}\" }", "must be one place in a column"),
        ("routing_key = \"{count:integer}\"", "is text, and has no type"),
        ("[tables.events.a]\nexchange = \"{gone}\"", "events.a.exchange"),
        ("[tables.cloudevents]\nmode = \"binary\"\nsource = \"{gone}\"", "cloudevents.source"),
    ] {
        let table = table_of(lines);
        let columns = COLUMNS.map(|(name, type_oid)| Column { name: name.to_owned(), type_oid });
        let errors = Mapping::compile(0, &table, &columns, false).unwrap_err();
        assert!(errors.iter().any(|error| error.contains(what)), "{lines}: {errors:?}");
    }
}

/// The user of the broker is known where a broker is.
#[test]
fn a_user_id_is_the_brokers_user_or_refused() {
    let mut table = table_of("properties = { user_id = \"{tenant}\" }");
    table.message.broker_user = Some("relay".to_owned());
    let columns = COLUMNS.map(|(name, type_oid)| Column { name: name.to_owned(), type_oid });
    let mut reader = Reader::new(0, &table, &columns).unwrap();
    let mut of = |tenant| {
        let row = row_with(&[("tenant", Some(tenant))]);
        let tuple = Tuple::of_texts(row.iter().map(|text| text.map(str::as_bytes))).unwrap();
        let limits = Limits { body: 1 << 20, header_frame: 131_064, stream: None };
        reader.build(&tuple, 0, Position::start(), limits)
    };
    assert!(of("relay").is_ok());
    let refusal = of("acme").unwrap_err().to_string();
    assert!(refusal.contains("\"relay\", as whom pgoutbox logs in"), "{refusal}");
}

#[test]
fn names_over_255_bytes_are_refused_not_a_panic() {
    let mut out = Vec::new();
    assert!(short(&mut out, "x", &"a".repeat(255)).is_ok());
    assert_eq!(
        short(&mut out, "routing_key", &"a".repeat(256)),
        Err(Refusal::TooLong { what: "routing_key".into(), bytes: 256 })
    );
}

#[test]
fn what_is_written_is_read_again() {
    let properties = AMQPProperties::default()
        .with_message_id("a".into())
        .with_content_type("text/plain".into())
        .with_timestamp(7);
    let body = Bytes::from_static(b"body");
    let message = Message::new("ex", "key.ä", &properties, body.clone()).unwrap();
    assert_eq!((message.exchange(), message.routing_key()), ("ex", "key.ä"));
    assert_eq!((message.properties(), &message.body), (properties, &body));
}

#[test]
fn another_column_says_the_message_id() {
    let message_id = |row: &[Option<&str>]| {
        let message = build_of("columns.message_id = \"tenant\"", row).unwrap();
        message.properties().message_id().as_ref().unwrap().to_string()
    };
    assert_eq!(message_id(&ROW), "acme");
    assert_eq!(message_id(&row_with(&[("tenant", None)])), ROW[0].unwrap(), "the row's own id");
}

#[test]
fn headers_are_texts_where_consumers_read_nothing_else() {
    let json = r#"{"s":"a\"\u00fc","n":1.50,"big":12345678901234567890123,"b":true,"o":{"x":[1, 2]},"z":null,"s":"last"}"#;
    let row = row_with(&[("headers", Some(json))]);
    let message = build_of("header_values = \"text\"", &row).unwrap();
    let text = |name: &str| match header(&message, name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8(text.as_bytes().to_vec()).unwrap()),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("s").as_deref(), Some("last"), "of two with one name the last one counts");
    assert_eq!(text("n").as_deref(), Some("1.50"), "its digits");
    assert_eq!(text("big").as_deref(), Some("12345678901234567890123"));
    assert_eq!(text("b").as_deref(), Some("true"));
    assert_eq!(text("o").as_deref(), Some(r#"{"x":[1, 2]}"#));
    assert_eq!(text("z"), None);
    for (json, why) in
        [("[1]", "it is no JSON object"), ("{\"a\":", "is no JSON"), ("7", "no JSON object")]
    {
        let row = row_with(&[("headers", Some(json))]);
        let refusal = build_of("header_values = \"text\"", &row).unwrap_err().to_string();
        assert!(refusal.contains(why), "{json}: {refusal}");
    }
    let row = row_with(&[("headers", Some(r#"{"CC":"x"}"#))]);
    let refusal = build_of("header_values = \"text\"", &row).unwrap_err();
    assert!(matches!(refusal, Refusal::ForbiddenHeader { .. }), "{refusal}");
    let row = row_with(&[("headers", Some("null"))]);
    assert!(build_of("header_values = \"text\"", &row).is_ok(), "as no headers at all");
}

#[test]
fn what_a_row_lacks_was_added_or_had_another_name() {
    let columns = |said: &str| -> Vec<Column> {
        let column = |(name, said): (&str, &str)| {
            let of = match said {
                "int" => Type::INT4,
                "json" => Type::JSON,
                "jsonb" => Type::JSONB,
                _ => Type::TEXT,
            };
            Column { name: name.to_owned(), type_oid: of.oid() }
        };
        said.split(", ").filter_map(|one| one.split_once(' ')).map(column).collect()
    };
    let table = table_of("");
    let today = columns("id int, payload jsonb, note text, topic text, headers jsonb");
    let lost = |row: &str, today: &[Column]| {
        Mapping::of_row(0, &table, &columns(row), today).map_or_else(|errors| errors.len(), |_| 0)
    };
    for added in [
        "id int, payload jsonb, note text, topic text, headers jsonb",
        "id int, payload jsonb, note text, topic text",
        "id int, payload jsonb",
        // Of another type, under the name of the same field.
        "id int, payload json, topic text",
        // One that nothing is read from is gone as well: it had another type, or stood elsewhere.
        "id int, payload jsonb, legacy text, note text, topic text",
        "id int, payload jsonb, note text, legacy int, topic text",
        "id int, payload jsonb, note int, topic text",
        "id int, payload jsonb, note text, topic text, legacy int",
        "legacy text, id int, payload jsonb, note text, headers jsonb",
        // Nothing is missing.
        "id int, payload jsonb, note text, gone int, topic text, headers jsonb",
    ] {
        assert_eq!(lost(added, &today), 0, "{added}");
    }
    assert_eq!(lost("id int, payload jsonb, note text, topic text, hh jsonb", &today), 1);
    assert_eq!(lost("id int, payload jsonb, tt text, hh jsonb", &today), 2);
    // Its type was changed too.
    assert_eq!(lost("id int, payload jsonb, note text, topic text, hh json", &today), 1);
    assert_eq!(lost("id int, payload jsonb, x text", &[]), 0, "of no table");
}
