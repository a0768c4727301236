//! What may be given any bytes, and what must hold then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::LazyLock;

use amq_protocol::protocol::basic::gen_properties;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use model::defaults;
use model::script::Script;
use model::world::World;
use pgoutbox::testing::config::{
    self, ColumnRef, Flags, Needs, OnFailure, Sources, Table, Template, columns,
};
use pgoutbox::testing::core::event::envelope::{self, Shape};
use pgoutbox::testing::core::event::pgoutput::{self, Column, Tuple};
use pgoutbox::testing::core::event::relation::Mapping;
use pgoutbox::testing::core::event::{Event, Position, Row};
use pgoutbox::testing::core::message::{Limits, Message};
use pgoutbox::testing::network;
use pgoutbox::testing::stream::confirmed_by;

/// Bytes of the stream: read, or refused.
pub fn decode(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(pgoutput::Message::Insert { tuple, .. }) = pgoutput::decode(&bytes) {
        let mut cells = Vec::new();
        if tuple.read_into(&mut cells).is_ok() {
            for cell in cells {
                assert_eq!(tuple.text(cell), tuple.bytes(cell).as_deref());
            }
        }
    }
}

/// Bytes of a broker of streams: each message is confirmed at most once, and nothing else is.
pub fn stream(bytes: &[u8]) {
    let in_flight = [1, 2, 5, 0x0100_0000_0000];
    let (numbers, _) = confirmed_by(bytes, &in_flight);
    let different: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(different.len(), numbers.len());
    assert!(numbers.iter().all(|number| *number < 4));
}

/// Certificates that a server shows: what is said of them, where one of the corpus is trusted.
pub fn certificates(bytes: &[u8]) {
    static CA: LazyLock<PathBuf> = LazyLock::new(|| {
        let der = include_bytes!("corpus/certificates/ec");
        let text = BASE64_STANDARD.encode(der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|it| str::from_utf8(it).unwrap()).collect();
        let pem = lines.join("\n");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-ca.pem");
        let pem = format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n");
        std::fs::write(&path, pem).unwrap();
        path
    });
    network::certificates(bytes, &CA);
}

/// Values made of the bytes, as long as they last.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// Of up to 255 bytes, or now and then of many times as many.
    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        let times = if self.byte() == 1 { 50 } else { 1 };
        taken.repeat(times)
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

const NAMES: [&str; 12] = [
    "id",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "topic",
    "payload",
    "headers",
    "occurred_at",
    "correlation_id",
    "content_type",
    "relayed_at",
    "other",
];
/// uuid, text, varchar, jsonb, json, bytea, timestamptz, timestamp, bigint, an enum, no type.
const TYPES: [u32; 11] = [2950, 25, 1043, 3802, 114, 17, 1184, 1114, 20, 20_000, 0];

fn table(input: &mut Input<'_>) -> Table {
    let flags = input.byte();
    let columns = columns(|name| {
        let name = match input.byte() {
            0..=239 => name.to_owned(),
            240..=247 => String::new(),
            _ => NAMES[input.below(NAMES.len())].to_owned(),
        };
        ColumnRef { name, is_explicit: flags & 1 == 1 }
    });
    let mut template = |preset: &str| {
        let text = if flags & 2 == 2 { input.text() } else { preset.to_owned() };
        let template = Template::parse(&text).or_else(|_| Template::parse(preset)).unwrap();
        // What is shown means the same.
        assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template));
        template
    };
    Table {
        columns,
        exchange: template("outbox"),
        routing_key: template("{topic} | {aggregate_type}.{event_type}"),
        app_id: (flags & 4 == 4).then(|| input.text()),
        on_failure: OnFailure::Block,
        stream: (flags & 8 == 8).then(|| "events".into()),
        ..defaults::table()
    }
}

/// The content of a message: an envelope, of which an event or a refusal is made like of any row, or
/// what is kept as it came and refused.
pub fn envelope(bytes: &[u8]) {
    let mut input = Input(b"");
    let table = Table { schema: String::new(), ..table(&mut input) };
    let (shape, tuple) = envelope::read(bytes).unwrap();
    let mapping = Mapping::compile(0, &table, &shape.columns(), false).unwrap();
    let mut cells = Vec::new();
    tuple.read_into(&mut cells).unwrap();
    assert_eq!(cells.len(), shape.columns().len());
    let event = Event::read(&mapping, Row { tuple: &tuple, cells: &cells }, 0, usize::MAX);
    match (shape, event) {
        (Shape::Content, Ok(event)) => panic!("{event:?}"),
        (Shape::Content, Err(refusal)) => {
            assert_eq!(tuple.text(cells[0]), Some(bytes));
            // Nothing of what is in it.
            assert!(refusal.to_string().is_ascii() && refusal.to_string().len() < 200, "{refusal}");
        }
        (Shape::Json, Ok(event)) => {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(
                text.contains(std::str::from_utf8(&event.payload).unwrap()),
                "as it is written"
            );
        }
        (Shape::Text | Shape::Bytes, Ok(_)) => {}
        (_, Err(refusal)) => panic!("{refusal}"),
    }
}

/// A table's settings, the columns that a server announces, and a row: a message within all
/// limits, or a refusal.
pub fn mapping(bytes: &[u8]) {
    let mut input = Input(bytes);
    let table = table(&mut input);
    let columns: Vec<Column> = (0..input.below(20))
        .map(|_| Column {
            name: NAMES[input.below(NAMES.len())].to_owned(),
            type_oid: TYPES[input.below(TYPES.len())],
        })
        .collect();
    let needs_mark = input.byte() & 1 == 1;
    let mapping = match Mapping::compile(0, &table, &columns, needs_mark) {
        Ok(mapping) => mapping,
        Err(errors) => {
            return assert!(!errors.is_empty() && errors.iter().all(|it| !it.is_empty()));
        }
    };
    let limits = Limits {
        body: usize::from(input.byte()) * 16,
        header_frame: usize::from(input.byte()) * 64,
        stream: Some(usize::from(input.byte()) * 64),
    };
    let texts: Vec<Option<Vec<u8>>> =
        columns.iter().map(|_| (input.byte() > 40).then(|| input.bytes())).collect();
    let tuple = Tuple::of_texts(texts.iter().map(Option::as_deref)).unwrap();
    let mut cells = Vec::new();
    tuple.read_into(&mut cells).unwrap();
    let row = Row { tuple: &tuple, cells: &cells };
    let position = Position { commit_lsn: u64::MAX.into(), index: u64::MAX };
    let commit_time = if input.byte() & 1 == 1 { i64::MIN } else { i64::MAX };
    let Ok(event) = Event::read(&mapping, row, commit_time, usize::MAX) else { return };
    let Ok(message) = Message::build(&event, row, position, &mapping, &table, limits) else {
        return;
    };
    assert!(message.body.len() <= limits.body);
    if table.stream.is_some() {
        let size = message.sections_bytes().len() + message.body.len();
        assert!(limits.stream.is_some_and(|limit| size <= limit));
        assert!(message.sections_bytes().starts_with(&[0x00, 0x53, 0x72]));
    }
    assert!(!message.exchange().is_empty() && !message.routing_key().is_empty());
    // What goes over the wire is what was reckoned with.
    let mut wire = vec![0; limits.header_frame + 256];
    let cursor = std::io::Cursor::new(wire.as_mut_slice());
    let properties = message.properties();
    let (_, size) = cookie_factory::r#gen(gen_properties(&properties), cursor).unwrap();
    assert_eq!(size, message.properties_bytes().len() as u64, "{properties:?}");
    assert!(size + 12 <= limits.header_frame as u64, "{size} of {}", limits.header_frame);
}

/// Lines of `NAME=value` for variables and `--set key=value` for flags, `---`, and a file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (head, file) = text.split_once("\n---\n").unwrap_or((&text, ""));
    let mut sources = Sources { flags: Flags::default(), ..Sources::default() };
    for line in head.lines() {
        if let Some(set) = line.strip_prefix("--set ") {
            sources.flags.set.push(set.to_owned());
        } else if let Some((name, value)) = line.split_once('=') {
            // Devices never end.
            if !value.contains("/dev") {
                sources.env.insert(name.into(), value.into());
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    if !file.is_empty() && !file.contains("/dev") {
        let path = folder.path().join("pgoutbox.toml");
        std::fs::write(&path, file).unwrap();
        sources.default_files.push(path);
    }
    for needs in [Needs::ALL, Needs::NONE] {
        match config::load(&sources, needs) {
            Ok((config, explained)) => {
                assert!(!(config.tables.is_empty() && config.messages.is_empty()));
                let toml = explained.toml();
                assert!(toml.parse::<toml_edit::DocumentMut>().is_ok(), "{toml}");
                let _ = (explained.json(), format!("{config:?}"));
            }
            Err(fault) => assert!(!fault.what.is_empty()),
        }
    }
}

/// A script of the simulated world: its rules hold whatever the script says.
pub fn world(bytes: &[u8]) {
    World::new(Rc::new(Script::of_bytes(bytes))).run(300);
    World::of_streams(Rc::new(Script::of_bytes(bytes))).run(300);
}
