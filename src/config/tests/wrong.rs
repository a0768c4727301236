//! What is wrong, and what is said about it.

use super::super::settings::nearest;
use super::*;

#[test]
fn all_errors_at_once_each_with_its_place_and_hint() {
    let tried = Try::both()
        .file("[postgres]\nslot = \"Not A Slot\"\nslto = \"x\"\n\n[window]\nbytes = 1000\nmessages = \"1\"\n[audit]\nlinger = \"20s\"\n")
        .env(&[("PGOUTBOX_AMQP__HEARTBEAT", "1.5s"), ("PGOUTBOX_AMQP__HEARTBEET", "1s")])
        .set("session.backoff_min=1m")
        .set("session.backoff_max=0s");
    assert_eq!(
        tried.fault(),
        "8 settings are wrong\n  \
           pgoutbox.toml:3: postgres.slto: there is no such setting\n    \
             hint: did you mean postgres.slot?\n  \
           PGOUTBOX_AMQP__HEARTBEET: there is no such setting\n    \
             hint: did you mean PGOUTBOX_AMQP__HEARTBEAT?\n  \
           PGOUTBOX_AMQP__HEARTBEAT: amqp.heartbeat: \"1.5s\" is not a whole number of seconds\n    \
             hint: AMQP counts heartbeats in seconds: write `10s`\n  \
           pgoutbox.toml:9: audit.linger: \"20s\" is out of bounds\n    \
             hint: choose 0s to 10s\n  \
           pgoutbox.toml:2: postgres.slot: \"Not A Slot\" cannot be a slot's name\n    \
             hint: Postgres allows 1 to 63 of a-z, 0-9 and _\n  \
           --set: session.backoff_max: \"0s\" is out of bounds\n    \
             hint: choose 10ms to 10m\n  \
           pgoutbox.toml:6: window.bytes: 1000 has no unit\n    \
             hint: write \"1000KiB\" or \"1000MiB\"\n  \
           pgoutbox.toml:7: window.messages: is a text\n    \
             hint: write a whole number"
    );
}

#[test]
fn a_class_of_its_own() {
    let fault = Config::load(&Sources::default(), Needs::ALL).unwrap_err();
    assert_eq!(fault.exit_code(), 64);
}

#[test]
fn wrong_values() {
    for (pair, what) in [
        ("window.messages=0", "out of bounds"),
        ("window.messages=65536", "out of bounds"),
        ("window.messages=-1", "out of bounds"),
        ("window.messages=99999999999999999999999999", "out of bounds"),
        ("window.messages=many", "is not a whole number"),
        ("window.bytes=1KiB", "out of bounds"),
        ("window.bytes=99999999PiB", "out of bounds"),
        ("window.bytes=32", "has no unit"),
        ("window.bytes=32 loads", "is not a size"),
        ("audit.hold=30", "write \"30ms\" or \"30s\""),
        ("audit.hold=-1s", "is not a duration"),
        ("audit.hold=1 fortnight", "is not a duration"),
        ("audit.mode=Update", "choose update, delete, side_table, none"),
        ("postgres.slot=", "slot's name"),
        ("postgres.publication=", "is empty"),
        ("postgres.sslmode=prefer", "falls back to plain text"),
        ("postgres.sslmode=VERIFY", "is not an sslmode"),
        ("http.address=8976", "is no IP address with a port"),
        ("http.address=localhost:8976", "write it like 127.0.0.1:8976"),
        ("http.token= ", "is empty"),
        ("log.level=infoo", "is not a log filter"),
        ("log.level=a=b=c", "is not a log filter"),
        ("declare.exchange_type=topics", "choose topic"),
        ("tables.0.exchange={a", "is not a template"),
        ("tables.0.exchange=", "is not a template"),
        ("tables.0.name=a.b.c", "more than one dot"),
        ("tables.0.name=.b", "names no schema"),
        ("tables.0.columns.nonsense=x", "no such setting"),
        ("tables.00.name=x", "no such setting"),
        ("tables.x.name=x", "no such setting"),
        ("tables.1.name=x", "no tables.0"),
        ("declare.queues.0.bindings=x", "declare.queues.0.name: is not set"),
        ("messages.0.exchange=x", "messages.0.prefix: is not set"),
        ("messages.0.columns.id=x", "no such setting"),
        ("slot", "has no `=`"),
        ("slot=x", "did you mean postgres.slot?"),
    ] {
        let fault = Try::both().set(pair).fault();
        assert!(fault.contains(what), "{pair}: {fault}");
        assert!(
            fault.contains("--set")
                || fault.contains("no tables.0")
                || pair.starts_with("declare.queues")
                || pair.starts_with("messages.0.exchange"),
            "{pair}: {fault}"
        );
        assert!(fault.contains("hint: "), "{pair}: {fault}");
        assert!(fault.starts_with("a setting is wrong"), "{pair}: one only: {fault}");
    }
}

#[test]
fn wrong_files() {
    for (text, what) in [
        ("slot = \"x\"", "pgoutbox.toml:1: slot: there is no such setting"),
        ("[postgress]\nslot = \"x\"", "pgoutbox.toml:1: postgress: there is no such setting"),
        ("\n\n[postgres]\n\nslot = 5", "pgoutbox.toml:5: postgres.slot: is a number"),
        ("postgres.slot = true", "is true or false"),
        ("postgres.slot = 1979-05-27", "is a date"),
        ("window.messages = 1.5", "is a fraction"),
        ("window.messages = -5", "out of bounds"),
        ("window = 5", "pgoutbox.toml:1: window: there is no such setting"),
        ("[tables]\nname = \"x\"", "write [[tables]]"),
        ("tables = 5", "write [[tables]]"),
        ("[[postgres]]\nslot = \"x\"", "there is no such setting"),
        ("[postgres\nslot = 5", "pgoutbox.toml:1: is not TOML"),
        ("[postgres]\nslot = \"a\"\nslot = \"b\"", "pgoutbox.toml:3: is not TOML"),
        ("[postgres]\npassword = 5", "postgres.password: is a number"),
        ("[postgres]\npassword_file = 5", "is not the path of a file"),
        ("[[declare.queues]]\nname = \"q\"\nbindings = \"x\"", "is a text"),
        ("[[declare.queues]]\nname = \"q\"\nbindings = [1]", "list of something else"),
        (
            "[[declare.queues]]\nname = \"q\"\ncolour = 1",
            "pgoutbox.toml:3: declare.queues.0.colour",
        ),
        ("[amqp]\nurl = [5]", "is a list of something else"),
        ("[amqp]\nurl = []", "is empty"),
    ] {
        let fault = Try::both().file(text).fault();
        assert!(fault.contains(what), "{text}: {fault}");
    }
}

#[test]
fn every_contradiction() {
    for (settings, key, what) in [
        (
            &["audit.linger=200ms", "audit.hold=200ms"][..],
            "audit.linger",
            "is not below audit.hold",
        ),
        (&["audit.hold=6m"], "audit.hold", "is above audit.give_up"),
        (&["audit.give_up=5s"], "audit.give_up", "is above audit.give_up (5s)"),
        (&["session.backoff_min=11s"], "session.backoff_min", "is above session.backoff_max"),
        (&["parking.backoff_min=6m"], "parking.backoff_min", "is above parking.backoff_max"),
        (&["parking.backoff_max=900ms"], "parking.backoff_max", "is above parking.backoff_max"),
        (&["reconcile.age=1m"], "reconcile.age", "is below audit.give_up"),
        (&["audit.give_up=6m"], "audit.give_up", "is below audit.give_up"),
        (
            &["reconcile.republish=true", "audit.mode=none"],
            "reconcile.republish",
            "audit.mode none",
        ),
        (
            &["tables.0.columns.failed_at=relayed_at"],
            "tables.0.columns.failed_at",
            "same column as relayed_at",
        ),
        (&["tables.0.columns.last_error=topic"], "tables.0.columns.last_error", "column as topic"),
        (&["tables.0.columns.failed_at=attempt"], "tables.0.columns.failed_at", "as attempt"),
        (&["amqp.heartbeat=20s"], "amqp.heartbeat", "is below twice amqp.heartbeat"),
        (&["amqp.confirm_timeout=9s"], "amqp.confirm_timeout", "is below twice"),
        (&["tables.0.columns.relayed_at="], "tables.0.columns.relayed_at", "audit.mode update"),
        (&["prune.keep=1day", "audit.mode=none"], "prune.keep", "audit.mode none"),
        (
            &["guard.policy=drop_slot_and_catch_up_later", "audit.mode=none"],
            "guard.policy",
            "nothing to catch up by",
        ),
        (
            &["guard.policy=drop_slot_and_catch_up_later", "postgres.on_slot_loss=halt"],
            "guard.policy",
            "makes no new one",
        ),
        (&["guard.warn_percent=95"], "guard.warn_percent", "above guard.act_percent"),
        (
            &["tables.0.columns.relayed_at=occurred_at"],
            "tables.0.columns.relayed_at",
            "same column as occurred_at",
        ),
        (&["tables.0.columns.id="], "tables.0.columns.id", "is empty"),
        (&["tables.0.columns.payload="], "tables.0.columns.payload", "is empty"),
        (
            &["tables.0.routing_key={topic}", "tables.0.columns.topic="],
            "tables.0.routing_key",
            "every alternative",
        ),
        (&["tables.0.app_id=x", "tables.1.app_id=y"], "tables.1.name", "as tables.0 is already"),
        (
            &["tables.0.name=a.b", "tables.1.name=b", "tables.1.schema=a"],
            "tables.1.name",
            "is a.b, as tables.0",
        ),
        (
            &["declare.queues.0.name=q", "declare.queues.1.name=q"],
            "declare.queues.1.name",
            "name each queue once",
        ),
        (
            &["declare.queues.0.name=q", "tables.0.exchange={topic}"],
            "tables.0.exchange",
            "depends on its rows",
        ),
        (
            &["postgres.stream_url=postgres://u@h/other"],
            "postgres.stream_url",
            "names database \"other\"",
        ),
        (&["amqp.auth=external"], "amqp.auth", "there is none"),
        (&["tables.0.sink=stream"], "tables.0.stream", "is not set"),
        (&["tables.0.stream=s"], "tables.0.stream", "the sink is an exchange"),
        (&["tables.0.sink=super_stream", "tables.0.partitions=3"], "tables.0.stream", "is not set"),
        (&["tables.0.sink=super_stream", "tables.0.stream=s"], "tables.0.partitions", "is not set"),
        (
            &["tables.0.sink=stream", "tables.0.stream=s", "tables.0.partitions=3"],
            "tables.0.partitions",
            "the sink is one stream",
        ),
        (&["tables.0.partitions=3"], "tables.0.partitions", "the sink is an exchange"),
        (&["amqp.stream_addresses=a:x"], "amqp.stream_addresses", "no host:port"),
        (&["amqp.stream_addresses=a,u:p@b:5552"], "amqp.stream_addresses", "no host:port"),
        (&["tables.0.filter_value=x"], "tables.0.filter_value", "the sink is an exchange"),
        (
            &[
                "tables.0.sink=stream",
                "tables.0.stream=s",
                "tables.0.filter_value={topic}",
                "tables.0.columns.topic=",
            ],
            "tables.0.filter_value",
            "every alternative needs a field",
        ),
        (
            &[
                "tables.0.sink=super_stream",
                "tables.0.stream=s",
                "tables.0.partitions=3",
                "messages.0.prefix=m",
                "messages.0.sink=super_stream",
                "messages.0.stream=s",
                "messages.0.partitions=4",
            ],
            "messages.0.stream",
            "another number of partitions",
        ),
        (
            &[
                "tables.0.sink=stream",
                "tables.0.stream=s",
                "tables.0.on_failure=dead_letter",
                "tables.0.dead_letter_exchange=d",
            ],
            "tables.0.on_failure",
            "has no dead-letter exchange",
        ),
        (&["amqp.url=amqp://a?heartbeat=5,amqp://b?heartbeat=6"], "amqp.url", "different values"),
        (
            &["postgres.url=postgres://u@/d?host=/run/x&sslmode=require"],
            "postgres.url",
            "unix socket",
        ),
    ] {
        let tried = settings.iter().fold(Try::both(), |tried, pair| tried.set(pair));
        let fault = tried.fault();
        assert!(fault.contains(&format!("{key}: ")), "{settings:?}: {fault}");
        assert!(fault.contains(what), "{settings:?}: {fault}");
        assert!(fault.starts_with("a setting is wrong"), "{settings:?}: {fault}");
    }
    let tried =
        Try::both().set("tables.1.name=other").flags(|flags| flags.exchange = Some("x".to_owned()));
    assert!(tried.fault().contains("--exchange: there is more than one table"));
}

#[test]
fn no_contradiction_where_the_mark_is_elsewhere() {
    for mode in ["delete", "side_table", "none"] {
        let tried =
            Try::both().set("tables.0.columns.relayed_at=").set(&format!("audit.mode={mode}"));
        tried.load();
    }
}

#[test]
fn variables_that_only_look_like_settings() {
    let fault = Try::both().env(&[("PGOUTBOX_POSTGRES_SLOT", "x")]).fault();
    assert!(fault.contains("PGOUTBOX_POSTGRES_SLOT: looks like a setting"), "{fault}");
    assert!(fault.contains("write PGOUTBOX_POSTGRES__SLOT"), "{fault}");
    // Kubernetes' for a service named pgoutbox.
    Try::both()
        .env(&[("PGOUTBOX_SERVICE_HOST", "10.0.0.1"), ("PGOUTBOX_PORT", "tcp://10.0.0.1:80")])
        .load();
}

#[test]
fn suggestions() {
    for (wrong, near) in [
        ("postgres.slto", Some("postgres.slot")),
        ("postgress.slot", Some("postgres.slot")),
        ("Postgres.Slot", Some("postgres.slot")),
        ("amqp.confirm-timeout", Some("amqp.confirm_timeout")),
        ("table.0.name", Some("tables.0.name")),
        ("tables.3.columns.idd", Some("tables.3.columns.id")),
        ("heartbeat", Some("amqp.heartbeat")),
        ("", None),
        ("completely.different.thing", None),
    ] {
        assert_eq!(nearest(wrong).as_deref(), near, "{wrong}");
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let mut tried = Try::both();
    let garbage = std::ffi::OsString::from_vec(vec![0xff]);
    tried.sources.env.insert("PGOUTBOX_POSTGRES__SLOT".into(), garbage.clone());
    tried.sources.env.insert("UNRELATED".into(), garbage);
    assert!(tried.fault().contains("PGOUTBOX_POSTGRES__SLOT: is not UTF-8"));
}

#[test]
fn a_catch_up_without_marks_is_asked_for_in_vain() {
    let none = || Try::both().set("audit.mode=none");
    assert!(!none().load().is_catching_up(), "the default gives way");
    let fault = none().set("postgres.on_slot_loss=catch_up").fault();
    assert!(fault.contains("no record of what was delivered"), "{fault}");
    assert!(Try::both().load().is_catching_up());
    assert!(!Try::both().set("postgres.on_slot_loss=halt").load().is_catching_up());
}
