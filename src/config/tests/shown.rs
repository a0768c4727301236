//! `pgoutbox config`.

use super::super::Field;
use super::super::settings::SETTINGS;
use super::*;
use crate::cli::config::{Args, run};

#[test]
fn the_effective_configuration() {
    let tried = Try::default()
        .env(&[
            ("DATABASE_URL", "postgres://app:hunter2@db.example/app?connect_timeout=5"),
            ("PGPORT", "6000"),
            ("AMQP_URL", "amqp://app:hunter3@one/v,amqps://two"),
            ("PGOUTBOX_POSTGRES__STREAM_PASSWORD", "hunter4"),
        ])
        .file("[[tables]]\nname = \"a.one\"\n[[tables]]\nname = \"a.two\"\ncolumns.topic = \"\"\n[window]\nmessages = 10\n")
        .flags(|flags| flags.slot = Some("mine".to_owned()));
    let text = run(&Args::default(), &tried.sources).unwrap();
    assert!(!text.contains("hunter"), "{text}");
    for line in [
        "url = \"postgres://app:***@db.example:6000/app?sslmode=disable\"  # DATABASE_URL, PGPORT",
        "# password is not set",
        "stream_password = \"***\"  # PGOUTBOX_POSTGRES__STREAM_PASSWORD",
        "sslmode = \"disable\"  # default",
        "slot = \"mine\"  # --slot",
        "connect_timeout = \"5s\"  # DATABASE_URL",
        "url = \"amqp://app:***@one:5672/v,amqps://guest:***@two:5671/%2F\"  # AMQP_URL",
        "connection_name = \"pgoutbox/mine\"  # default",
        "name = \"one\"",
        "schema = \"a\"",
        "topic = \"\"",
        "messages = 10",
        "pgoutbox.toml:7",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }

    // What is printed can be read again: only the secrets are masked.
    let again = Try::default().file(&text).load();
    let first = tried.load();
    assert_eq!(
        format!("{:?}", again.tables).replace("true", "false"),
        format!("{:?}", first.tables).replace("true", "false")
    );
    assert_eq!(again.postgres.slot, first.postgres.slot);
    assert_eq!(again.amqp.brokers.len(), 2);

    let json = run(&Args { json: true, ..Args::default() }, &tried.sources).unwrap();
    assert!(!json.contains("hunter"), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["tables.1.name"]["value"], "two");
    assert_eq!(json["window.messages"]["value"], 10);
    assert_eq!(json["tables.0.app_id"]["value"], serde_json::Value::Null);
}

#[test]
fn nothing_set_can_be_shown_too() {
    let text = run(&Args::default(), &Sources::default()).unwrap();
    assert!(text.starts_with("[postgres]\n# url is not set\n"), "{text}");
    Config::load(&Try::default().file(&text).sources, Needs::NONE).unwrap();
}

#[test]
fn every_setting_is_documented_once() {
    let docs = run(&Args { docs: true, ..Args::default() }, &Sources::default()).unwrap();
    for setting in SETTINGS {
        let row = format!("\n| `{}` |", setting.key.replace('*', "N").replace('?', "NAME"));
        assert_eq!(docs.matches(&row).count(), 1, "{}", setting.key);
        assert!(!setting.doc.is_empty());
    }
    // A bar in a default would split its cell.
    let bars = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(docs.lines().all(|line| bars(line) == 6), "{docs}");
}

#[test]
fn debug_shows_no_secret() {
    let tried = Try::both()
        .flags(|flags| flags.database_url = Some("postgres://u:hunter2@h/d".to_owned()))
        .set("amqp.password=hunter2");
    let text = format!("{:?} {:?} {:?}", tried.load(), tried.sources, tried.sources.flags);
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn names_that_the_user_gives_are_read_and_shown_again() {
    let tried = Try::both()
        .file(
            r#"
            [[tables]]
            name = "a.one"
            [tables.headers]
            "x.delay" = "{headers.delay:integer}"
            version = 3
            flag = true
            [tables.body]
            id = "{id}"
            [tables.body.meta]
            5 = "{id}"
            [tables.events."order.created"]
            exchange = "orders"
            [tables.events."order paid"]
            routing_key = "paid"
            [[tables]]
            name = "a.two"
            cloudevents = { mode = "binary", extensions = { key = "{id}" } }
            "#,
        )
        .env(&[("PGOUTBOX_TABLES__0__HEADERS__TENANT", "{tenant}")])
        .set("tables.0.events.order paid.exchange=payments");
    let first = tried.load();
    let one = &first.tables[0].message;
    let names = |fields: &[(String, Field)]| {
        fields.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&one.headers), "flag tenant version x.delay");
    assert_eq!(names(&one.body), "id meta.5");
    let routes: Vec<_> = one.events.iter().map(|route| route.event_type.as_str()).collect();
    assert_eq!(routes, ["order paid", "order.created"]);
    assert!(one.events[0].exchange.is_some() && one.events[0].routing_key.is_some());
    let two = first.tables[1].message.cloudevents.as_ref().unwrap();
    assert_eq!(names(&two.extensions), "key");
    assert_eq!(two.source.to_string(), "/{schema()}.{table()}");

    let text = run(&Args::default(), &tried.sources).unwrap();
    let again = Try::both().file(&text.replace("\"***\"", "\"secret\"")).load();
    assert_eq!(again.tables[0].message, first.tables[0].message, "{text}");
    assert_eq!(again.tables[1].message, first.tables[1].message, "{text}");
}

#[test]
fn names_that_cannot_be_are_told() {
    for (lines, what) in [
        ("headers = { CC = \"a\" }", "tables.0.headers.CC: is a header that the broker"),
        ("headers = { pgoutbox-index = 1 }", "is a header that the broker or pgoutbox"),
        ("headers = { a = 1.5 }", "tables.0.headers.a: is a fraction"),
        ("headers = { a = [1] }", "is a list"),
        ("headers = { a = \"{x\" }", "is not a template"),
        ("body = { \"a..b\" = 1 }", "has an empty name in it"),
        ("body = { a = 1, \"a.b\" = 2 }", "is a value, and an object with a.b in it"),
        ("cloudevents = { mode = \"x\" }", "choose off, binary, structured"),
        ("cloudevents = { extensions = { Big = 1 } }", "cannot be the name of an attribute"),
        ("cloudevents = { extensions = { data = 1 } }", "is an attribute that CloudEvents has"),
        ("events = { a = { exchnge = \"x\" } }", "there is no such setting"),
        ("events = { a = 1 }", "there is no such setting"),
        ("properties = { user_id = \"other\" }", "pgoutbox logs in to the broker as"),
        ("properties = { message_id = \"x\" }", "there is no such setting"),
    ] {
        let tried = Try::both().file(&format!("[[tables]]\n{lines}\n"));
        let fault = load(&tried.sources, Needs::ALL).unwrap_err().to_string();
        assert!(fault.contains(what), "{lines}: {fault}");
    }
}
