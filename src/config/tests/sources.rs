//! Where values may stand, and which wins.

use super::super::kind::{ValueKind, size, span};
use super::super::settings::{SETTINGS, Setting, env_name};
use super::super::{AuditMode, OnFailure, OnSlotLoss, TlsMode, load, raw::Raw, value::parse};
use super::tls::certificate;
use super::*;

#[test]
fn two_urls_are_enough() {
    let config = Try::both().load();
    let postgres = &config.postgres;
    assert_eq!(postgres.audit.host, "db.example");
    assert_eq!(postgres.audit, postgres.stream);
    assert_eq!(postgres.audit.port, 5432);
    assert_eq!(postgres.audit.tls.mode, TlsMode::Disable);
    assert_eq!([&*postgres.slot, &*postgres.publication], ["pgoutbox", "pgoutbox"]);
    let [broker] = config.amqp.brokers.as_slice() else { panic!("one broker") };
    assert_eq!((&*broker.host, broker.port, &*broker.vhost), ("mq.example", 5672, "/"));
    assert_eq!(config.amqp.connection_name, "pgoutbox/pgoutbox");
    let [table] = config.tables.as_slice() else { panic!("one table") };
    assert_eq!([&*table.schema, &*table.name], ["public", "outbox_messages"]);
    assert_eq!(table.exchange.fixed(), Some("outbox"));
    assert!(!table.columns.id.is_explicit);
    assert_eq!((config.window.messages, config.window.bytes), (1000, 32 << 20));
    assert_eq!(config.tables[0].audit_mode, AuditMode::Update);
}

#[test]
fn every_fallback_can_be_read() {
    use super::super::settings::Fallback;
    for setting in SETTINGS {
        if let Fallback::Value(text) = setting.fallback {
            let value = parse(setting.kind, &Raw::Untyped(text.to_owned()));
            assert!(value.is_ok(), "{}: {value:?}", setting.key);
        }
    }
}

/// A value that differs from the fallback, sound and without contradicting other fallbacks.
fn sample(setting: &Setting, certificate: &str) -> String {
    // These bound others from below.
    let is_low = ["linger", "hold", "backoff_min", "heartbeat"]
        .iter()
        .any(|name| setting.key.ends_with(name));
    match setting.kind {
        ValueKind::Template if setting.key.ends_with(".user_id") => "{who}".to_owned(),
        ValueKind::Text(_)
        | ValueKind::Name
        | ValueKind::SlotName
        | ValueKind::Column
        | ValueKind::Template
        | ValueKind::Constant
        | ValueKind::Argument
        | ValueKind::Field => "sample".to_owned(),
        ValueKind::Secret if setting.key == "otlp.headers" => "key=other%20secret".to_owned(),
        ValueKind::Secret => "other secret".to_owned(),
        // Below the share at which the guard acts.
        ValueKind::Count { min, .. } if setting.key == "guard.warn_percent" => min.to_string(),
        ValueKind::Count { max, .. } => max.to_string(),
        ValueKind::Size { max, .. } => size(max),
        ValueKind::Span { min, max } | ValueKind::Seconds { min, max } => {
            span(if is_low { min } else { max })
        }
        ValueKind::Choice(["plain", other]) => (*other).to_owned(),
        ValueKind::Choice(choices) => (*choices.last().unwrap()).to_owned(),
        ValueKind::SslMode => "verify-full".to_owned(),
        ValueKind::ExchangeType => "direct".to_owned(),
        ValueKind::File => certificate.to_owned(),
        ValueKind::Listen => "[::1]:9000".to_owned(),
        ValueKind::LogFilter => "pgoutbox=debug".to_owned(),
        ValueKind::List => "a, b".to_owned(),
        ValueKind::PostgresUrl => "postgres://other@elsewhere/app".to_owned(),
        ValueKind::AmqpUrl => "amqp://other@elsewhere".to_owned(),
        ValueKind::HttpUrl => "https://other.example/spans".to_owned(),
        ValueKind::Flag => {
            (setting.fallback != super::super::settings::Fallback::Value("true")).to_string()
        }
    }
}

fn list_of(setting: &Setting) -> &str {
    setting.key.split('.').next().unwrap_or_default()
}

/// What must be there for a setting to make sense alone.
fn companions(setting: &Setting, certificate: &str) -> Vec<(String, String)> {
    let of = |key: &str| (env_name(key), certificate.to_owned());
    let mut all = vec![];
    if setting.key.contains("dead_letter") {
        let list = list_of(setting);
        let of =
            |name: &str, value: &str| (env_name(&format!("{list}.0.{name}")), value.to_owned());
        all.push(of("on_failure", "dead_letter"));
        if !setting.key.ends_with("exchange") {
            all.push(of("dead_letter_exchange", "dead"));
        }
    }
    if setting.key.contains(".cloudevents.") && !setting.key.ends_with(".mode") {
        let mode = format!("{}.0.cloudevents.mode", list_of(setting));
        all.push((env_name(&mode), "binary".to_owned()));
    }
    if setting.key.starts_with("messages.") && !setting.key.ends_with(".prefix")
        || setting.key == "messages.*.cloudevents.prefix"
    {
        all.push((env_name("messages.0.prefix"), "orders".to_owned()));
    }
    for (name, beside, value) in [
        ("sink", "stream", "events"),
        ("sink", "partitions", "3"),
        ("stream", "sink", "stream"),
        ("partitions", "sink", "super_stream"),
        ("partitions", "stream", "events"),
        ("filter_value", "sink", "stream"),
        ("filter_value", "stream", "events"),
    ] {
        if setting.key.ends_with(&format!(".*.{name}")) {
            let key = format!("{}.0.{beside}", list_of(setting));
            all.push((env_name(&key), value.to_owned()));
        }
    }
    if setting.key == "audit.give_up" {
        all.push((env_name("reconcile.age"), "7days".to_owned()));
    }
    if setting.key == "amqp.auth" {
        all.extend([of("amqp.cert_file"), of("amqp.key_file")]);
    }
    if let Some(key) = setting.key.strip_suffix("cert_file") {
        all.push(of(&format!("{key}key_file")));
    }
    if let Some(key) = setting.key.strip_suffix("key_file") {
        all.push(of(&format!("{key}cert_file")));
    }
    if setting.key.starts_with("amqp.") && setting.key != "amqp.url" {
        all.push(("AMQP_URL".to_owned(), "amqps://app:mqpw@mq.example".to_owned()));
    }
    if setting.key.starts_with("otlp.") && !setting.key.ends_with("endpoint") {
        all.push((env_name("otlp.endpoint"), "https://collector.example".to_owned()));
    }
    if setting.key.starts_with("declare.queues.") && !setting.key.ends_with(".name") {
        all.push((env_name("declare.queues.0.name"), "q{n}".to_owned()));
    }
    all
}

fn toml_line(setting: &Setting, key: &str, text: &str) -> String {
    let (section, name) = key.rsplit_once('.').unwrap();
    let value = match setting.kind {
        ValueKind::Count { .. } => text.to_owned(),
        ValueKind::List => format!(
            "[{}]",
            text.split(", ").map(|t| format!("{t:?}")).collect::<Vec<_>>().join(",")
        ),
        ValueKind::Flag => text.to_owned(),
        _ => format!("{text:?}"),
    };
    let (section, prefix) = match section.strip_suffix(".0") {
        Some(list) => (format!("[[{list}]]"), String::new()),
        None => match section.split_once(".0.") {
            Some((list, below)) => (format!("[[{list}]]"), format!("{below}.")),
            None => (format!("[{section}]"), String::new()),
        },
    };
    format!("{section}\n{prefix}{name} = {value}\n")
}

#[test]
fn every_setting_can_be_set_by_file_variable_and_flag() {
    let mut directory = Try::default();
    let pem = directory.path("both.pem");
    std::fs::write(&pem, certificate()).unwrap();
    let pem = pem.to_str().unwrap();
    for setting in SETTINGS {
        let key = key_of(setting);
        let text = sample(setting, pem);
        let mut base = Try::both();
        let companions = companions(setting, pem);
        // A pair's other half is a fault alone: the sample completes it.
        let companions: Vec<(&str, &str)> = companions.iter().map(|(k, v)| (&**k, &**v)).collect();
        base = base.env(&companions);
        let plain = load(&base.sources, Needs::ALL).ok().map(|(config, _)| fingerprint(&config));
        let ways = [
            (base.clone().file(&toml_line(setting, &key, &text)), "pgoutbox.toml:2".to_owned()),
            (base.clone().env(&[(&env_name(&key), &text)]), env_name(&key)),
            (base.clone().set(&format!("{key}={text}")), "--set".to_owned()),
        ];
        let mut prints = Vec::new();
        for (way, origin) in ways {
            let (config, explained) = load(&way.sources, Needs::ALL)
                .unwrap_or_else(|fault| panic!("{key} by {origin}: {fault}"));
            let shown = explained.json();
            let shown = &shown[&key];
            assert!(shown["origin"].as_str().unwrap().ends_with(&origin), "{key}: {shown}");
            if !setting.kind.is_secret() && setting.kind != ValueKind::List {
                let value = shown["value"].to_string();
                assert_eq!(value.trim_matches('"'), text, "{key}");
            }
            prints.push(fingerprint(&config));
        }
        assert_eq!(prints[0], prints[1], "{key}");
        assert_eq!(prints[1], prints[2], "{key}");
        if let Some(plain) = plain {
            assert_ne!(prints[0], plain, "{key} changes nothing");
        }
    }
}

#[test]
fn flags_of_their_own() {
    let config = Try::both()
        .flags(|flags| {
            flags.database_url = Some("postgres://flag@h/d".to_owned());
            flags.amqp_url = Some("amqp://flag".to_owned());
            flags.slot = Some("flag_slot".to_owned());
            flags.publication = Some("flag_pub".to_owned());
            flags.exchange = Some("flag_ex".to_owned());
            flags.preset = Some("phoenix_micro".to_owned());
            flags.log_level = Some("debug".to_owned());
            flags.log_format = Some("json".to_owned());
        })
        .load();
    assert_eq!(config.postgres.audit.user, "flag");
    assert_eq!(config.amqp.brokers[0].host, "flag");
    assert_eq!(config.postgres.slot, "flag_slot");
    assert_eq!(config.postgres.publication, "flag_pub");
    assert_eq!(config.tables[0].exchange.fixed(), Some("flag_ex"));
    assert_eq!(config.tables[0].columns.occurred_at.name, "inserted_at");
    assert_eq!(config.log.level, "debug");
    assert!(config.log.is_json);
    let documented = SETTINGS.iter().filter_map(|setting| setting.flag);
    let mut documented: Vec<&str> = documented.collect();
    documented.sort_unstable();
    let all = Flags {
        database_url: Some(String::new()),
        amqp_url: Some(String::new()),
        slot: Some(String::new()),
        publication: Some(String::new()),
        shards: Some(String::new()),
        shard: Some(String::new()),
        exchange: Some(String::new()),
        preset: Some(String::new()),
        log_level: Some(String::new()),
        log_format: Some(String::new()),
        ..Flags::default()
    };
    let mut given: Vec<&str> = all.given().map(|(flag, _, _)| flag).collect();
    given.sort_unstable();
    assert_eq!(given, documented);
}

#[test]
fn a_preset_stands_below_all_that_is_set() {
    let tried = |file: &str| Try::both().file(file).load();
    let table = |file: &str| tried(file).tables[0].clone();
    let preset = "[[tables]]\npreset = \"debezium\"\n";
    let plain = table(preset);
    assert_eq!(plain.columns.aggregate_id.name, "aggregateid");
    assert!(!plain.columns.aggregate_id.is_explicit, "a variant of the table may lack it");
    assert_eq!(plain.audit_mode, AuditMode::None);
    assert_eq!(
        table(&format!("[audit]\nmode = \"side_table\"\n{preset}")).audit_mode,
        AuditMode::SideTable
    );
    let own = table(&format!("{preset}routing_key = \"x\"\ncolumns.aggregate_id = \"other\"\n"));
    assert_eq!(own.routing_key.fixed(), Some("x"));
    assert_eq!(own.columns.aggregate_id.name, "other");
    assert_eq!(own.columns.aggregate_type.name, "aggregatetype", "the rest stays");
    let own = table(&format!("[audit]\nmode = \"update\"\n{preset}mark.state = \"done\"\n"));
    assert_eq!(own.mark.names().collect::<Vec<_>>(), ["state"]);
}

#[test]
fn later_sources_win() {
    let slot = |tried: &Try| tried.load().postgres.slot;
    let mut tried = Try::both().file("[postgres]\nslot = \"of_file\"\n");
    assert_eq!(slot(&tried), "of_file");
    tried = tried.env(&[("PGOUTBOX_POSTGRES__SLOT", "of_env")]);
    assert_eq!(slot(&tried), "of_env");
    tried = tried.flags(|flags| flags.slot = Some("of_flag".to_owned()));
    assert_eq!(slot(&tried), "of_flag");
}

#[test]
fn the_file_beats_shared_variables_and_own_variables_beat_the_file() {
    let host = |tried: &Try| tried.load().postgres.audit.host;
    let tried = Try::both().file("[postgres]\nurl = \"postgres://u@of-file/d\"\n");
    assert_eq!(host(&tried), "of-file");
    let tried = tried.env(&[("PGOUTBOX_POSTGRES__URL", "postgres://u@of-env/d")]);
    assert_eq!(host(&tried), "of-env");
    let tried = tried.env(&[("PGHOST", "of-pghost"), ("PGPORT", "x")]);
    assert!(tried.fault().contains("PGPORT"));
    let tried = tried.env(&[("PGPORT", "6000")]);
    let audit = tried.load().postgres.audit;
    assert_eq!((&*audit.host, audit.port), ("of-env", 6000));
}

#[test]
fn the_file_is_looked_for_where_told() {
    let mut tried = Try::both().file("[postgres]\nslot = \"of_default\"\n");
    let named = tried.path("named.toml");
    std::fs::write(&named, "[postgres]\nslot = \"of_named\"\n").unwrap();
    let flagged = tried.path("flagged.toml");
    std::fs::write(&flagged, "[postgres]\nslot = \"of_flag\"\n").unwrap();
    assert_eq!(tried.load().postgres.slot, "of_default");
    let tried = tried.env(&[("PGOUTBOX_CONFIG", named.to_str().unwrap())]);
    assert_eq!(tried.load().postgres.slot, "of_named");
    let tried = tried.flags(|flags| flags.config = Some(flagged));
    assert_eq!(tried.load().postgres.slot, "of_flag");
    let tried = tried.flags(|flags| flags.config = Some("nowhere/x.toml".into()));
    assert!(tried.fault().contains("nowhere/x.toml cannot be read"), "{}", tried.fault());
}

#[test]
fn the_libpq_variables_alone_are_enough() {
    let config = Try::default()
        .env(&[
            ("PGHOST", "h"),
            ("PGPORT", "5433"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "p"),
            ("PGDATABASE", "d"),
            ("PGSSLMODE", "require"),
            ("AMQP_URL", "amqp://b"),
        ])
        .load();
    let audit = &config.postgres.audit;
    assert_eq!((&*audit.host, audit.port, &*audit.user), ("h", 5433, "u"));
    assert_eq!((audit.password.expose(), &*audit.database), ("p", "d"));
    assert_eq!(audit.tls.mode, TlsMode::Require);
    assert_eq!(&config.postgres.stream, audit);
}

#[test]
fn secrets_from_files() {
    let mut tried = Try::default();
    let url = tried.path("url");
    std::fs::write(&url, "postgres://u:of-url@h/d\n").unwrap();
    let password = tried.path("password");
    std::fs::write(&password, "p w\r\n").unwrap();
    let [url, password] = [url, password].map(|path| path.to_str().unwrap().to_owned());
    let tried = tried.env(&[("DATABASE_URL_FILE", &url), ("AMQP_URL", "amqp://b")]);
    assert_eq!(tried.load().postgres.audit.password.expose(), "of-url");

    // In the file, relative to it.
    let of_file = tried.clone().file("[postgres]\npassword_file = \"password\"\n");
    assert_eq!(of_file.load().postgres.audit.password.expose(), "p w");
    let of_env = tried.clone().env(&[("PGOUTBOX_AMQP__PASSWORD_FILE", &password)]);
    assert_eq!(of_env.load().amqp.brokers[0].password.expose(), "p w");
    let of_pg = tried.clone().env(&[
        ("DATABASE_URL_FILE", ""),
        ("DATABASE_URL", "postgres://u@h/d"),
        ("PGPASSWORD_FILE", &password),
    ]);
    assert_eq!(of_pg.load().postgres.audit.password.expose(), "p w");

    let twice = tried.clone().env(&[("DATABASE_URL", "postgres://u@h/d")]);
    assert!(twice.fault().contains("is set twice"), "{}", twice.fault());
    let missing = tried.env(&[("DATABASE_URL_FILE", "/nowhere/at/all")]);
    let fault = missing.fault();
    assert!(
        fault.contains("DATABASE_URL_FILE: postgres.url_file: /nowhere/at/all cannot be read"),
        "{fault}"
    );
    assert!(fault.starts_with("a setting is wrong"), "one fault, one line: {fault}");
}

#[test]
fn commands_name_the_servers_they_need() {
    let nothing = Try::default();
    let fault = nothing.fault();
    assert!(fault.contains("2 settings are wrong"), "{fault}");
    assert!(
        fault.contains("export DATABASE_URL=") && fault.contains("export AMQP_URL="),
        "{fault}"
    );
    assert!(!nothing.fault_of(Needs::POSTGRES).contains("AMQP"));
    let config = Config::load(&nothing.sources, Needs::NONE).unwrap();
    assert!(config.amqp.brokers.is_empty());
    assert_eq!(config.postgres.audit.host, "localhost");
}

/// What a table's messages are made by, those of a prefix are.
#[test]
fn messages_have_the_settings_of_a_table() {
    const OF_A_TABLE: [&str; 12] = [
        "preset",
        "name",
        "schema",
        "pattern",
        "columns.",
        "envelope.",
        "audit.",
        "mark.",
        "only.",
        "except.",
        "failed.",
        "first_attempt",
    ];
    let of = |list: &'static str| {
        SETTINGS
            .iter()
            .filter_map(move |it| Some((it.key.strip_prefix(list)?, it.kind, it.fallback)))
    };
    let is_shared = |(key, ..): &(&str, _, _)| !OF_A_TABLE.iter().any(|own| key.starts_with(own));
    let expected: Vec<_> = of("tables.*.").filter(is_shared).collect();
    let found: Vec<_> = of("messages.*.").filter(|(key, ..)| *key != "prefix").collect();
    for ((key, kind, preset), (expected, expected_kind, expected_preset)) in
        found.iter().zip(&expected)
    {
        assert_eq!((key, kind), (expected, expected_kind));
        let is_same = *key == "cloudevents.source" || preset == expected_preset;
        assert!(is_same, "{key}: {preset:?}, not {expected_preset:?}");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn messages_alone_need_no_table() {
    let messages = r#"
        [[messages]]
        prefix = "orders"
        exchange = "{aggregate_type}"
        on_failure = "block"
        [messages.headers]
        tenant = "{headers.tenant}"
        [[messages]]
        prefix = "bills.v1 é"
        "#;
    let tried = Try::both().file(messages);
    let config = tried.load();
    assert!(config.tables.is_empty());
    let [first, second] = config.messages.as_slice() else { panic!("two prefixes") };
    assert_eq!((first.title().as_str(), &first.on_failure), ("message:orders", &OnFailure::Block));
    assert_eq!(first.message.headers.len(), 1);
    assert_eq!(second.title(), "message:bills.v1 é");
    assert_eq!(second.exchange.fixed(), Some("outbox"));
    assert_eq!(config.postgres.on_slot_loss, OnSlotLoss::Halt, "nothing else has them");
    assert!(!config.is_catching_up() && !config.has_marks());
    let with_table = format!("{messages}[[tables]]\nname = \"outbox_messages\"\n");
    let config = Try::both().file(&with_table).load();
    assert_eq!((config.tables.len(), config.sources().count()), (1, 3));
    assert!(config.has_marks() && !config.is_catching_up());
    let by_name = Try::both().file(&with_table).set("postgres.on_slot_loss=catch_up").load();
    assert!(by_name.is_catching_up(), "as it is said");
}

#[test]
fn tables_and_queues() {
    let text = r##"
        tables = [{ name = "billing.outbox", columns = { topic = "", id = "key" } }, { schema = "a.b", name = "c.d" }]
        [[declare.queues]]
        name = "all"
        [[declare.queues]]
        name = "some"
        bindings = ["order.#", "bill.#"]
        exchange = "other"
        [[declare.queues]]
        name = "orders.{n}"
        count = 2
        bindings = ["{n}"]
        arguments = { x-single-active-consumer = true, x-dead-letter-routing-key = "dead.{n}" }
    "##;
    let config = Try::both().file(text).env(&[("PGOUTBOX_TABLES__1__APP_ID", "shop")]).load();
    let [first, second] = config.tables.as_slice() else { panic!("two tables") };
    assert_eq!([&*first.schema, &*first.name], ["billing", "outbox"]);
    assert_eq!([&*second.schema, &*second.name], ["a.b", "c.d"]);
    assert_eq!(second.app_id.as_deref(), Some("shop"));
    assert!(first.columns.topic.is_explicit && first.columns.topic.name.is_empty());
    assert_eq!(first.columns.id.name, "key");
    let [all, some, _] = config.declare.queues.as_slice() else { panic!("three queues") };
    assert_eq!(
        (&*all.queue_type, &all.bindings, &all.exchange),
        ("quorum", &vec!["#".to_owned()], &None)
    );
    assert_eq!((some.bindings.len(), some.exchange.as_deref()), (2, Some("other")));
    let each: Vec<_> = config.declare.each().collect();
    let [_, _, (2, zero), (2, one)] = each.as_slice() else { panic!("two of the third") };
    assert_eq!([&*zero.name, &*one.name, &*one.bindings[0]], ["orders.0", "orders.1", "1"]);
    let argument = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let dead = argument("x-dead-letter-routing-key", "dead.1");
    assert_eq!(one.arguments, [dead, argument("x-single-active-consumer", "true")]);
}

#[test]
fn a_stream_of_another_role() {
    let config =
        Try::both().env(&[("PGOUTBOX_POSTGRES__STREAM_URL", "postgres://streamer@:6000")]).load();
    let [audit, stream] = [config.postgres.audit, config.postgres.stream];
    assert_eq!((&*stream.host, stream.port, &*stream.user), ("db.example", 6000, "streamer"));
    assert_eq!(stream.database, "app");
    assert_eq!(stream.password.expose(), "", "not the other role's");
    assert_eq!(audit.port, 5432);
    let config = Try::both().env(&[("PGOUTBOX_POSTGRES__STREAM_PASSWORD", "s")]).load();
    assert_eq!(config.postgres.stream.password.expose(), "s");
    assert_eq!(config.postgres.audit.password.expose(), "dbpw");
}

#[test]
fn where_spans_go() {
    let to = |tried: &Try| {
        let otlp = tried.load().otlp?;
        let scheme = if otlp.tls.mode == TlsMode::Disable { "http" } else { "https" };
        Some(format!("{scheme}://{}:{}{}", otlp.host, otlp.port, otlp.path))
    };
    let both = Try::both();
    assert_eq!(to(&both), None, "off by default");
    let shared = both.clone().env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://shared:4318/")]);
    assert_eq!(to(&shared).unwrap(), "http://shared:4318/v1/traces");
    let traces = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/spans")];
    assert_eq!(to(&shared.clone().env(&traces)).unwrap(), "https://traces.example:443/spans");
    let file = both.clone().env(&traces).file("[otlp]\nendpoint = \"http://[::1]\"\n");
    assert_eq!(to(&file).unwrap(), "http://::1:80/v1/traces", "what is meant for pgoutbox wins");
    for key in ["otlp.endpoint=off", "otlp.traces_endpoint=off"] {
        assert_eq!(to(&shared.clone().env(&traces).set(key)), None, "{key}");
    }
    let headers =
        [("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=a%2Cb, tenant=t"), ("OTEL_SERVICE_NAME", "shop")];
    let otlp = shared.clone().env(&headers).load().otlp.unwrap();
    let read: Vec<_> =
        otlp.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(read, [("api-key", "a,b"), ("tenant", "t")]);
    assert_eq!(otlp.service_name, "shop");
    let fault = shared.env(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=b,hunter2")]).fault();
    assert!(fault.contains("number 2") && !fault.contains("hunter2"), "{fault}");
    // Of no concern to a relay that makes no spans.
    assert_eq!(to(&both.env(&[("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")])), None);
}
