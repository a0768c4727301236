//! What real servers send, as `record.sh` captured it from Postgres 14 to 18, and what the
//! decoder makes of it; and bytes that no server sends, of which it makes an error.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fmt::Write;
use std::sync::LazyLock;

use bytes::Bytes;
use pgoutbox::testing::core::event::pgoutput::{Cell, Message, Tuple, decode};
use proptest::prelude::*;

const CAPTURES: [(u32, &str); 5] = [
    (14, include_str!("pg14.hex")),
    (15, include_str!("pg15.hex")),
    (16, include_str!("pg16.hex")),
    (17, include_str!("pg17.hex")),
    (18, include_str!("pg18.hex")),
];
const EXPECTED: &str = include_str!("expected.txt");
/// Oids from here on differ from server to server.
const FIRST_USER_OID: u32 = 16_384;

fn messages(capture: &str) -> Vec<Bytes> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    capture.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

static ALL: LazyLock<Vec<Bytes>> =
    LazyLock::new(|| CAPTURES.iter().flat_map(|(_, capture)| messages(capture)).collect());

/// The listing of a capture: without what differs from run to run, and without the empty
/// transactions that Postgres 14 sends.
fn listing(capture: &str) -> String {
    let mut names = std::collections::BTreeMap::new();
    let mut lines: Vec<String> = Vec::new();
    for bytes in messages(capture) {
        let message = decode(&bytes).unwrap();
        if let Message::Relation(relation) = &message {
            names.insert(relation.oid, relation.name.clone());
        }
        let name = |oid: &u32| names[oid].clone();
        let line = match &message {
            Message::Begin { .. } => "begin".to_owned(),
            Message::Commit { commit_lsn, end_lsn, .. } => {
                assert!(commit_lsn < end_lsn);
                if lines.last().is_some_and(|line| line == "begin") {
                    lines.pop();
                    continue;
                }
                "commit".to_owned()
            }
            Message::Origin { name } => format!("  origin {name}"),
            Message::Type { oid, .. } => format!("  type, built in: {}", *oid < FIRST_USER_OID),
            Message::Relation(relation) => {
                let mut line = format!("  relation {}.{}:", relation.schema, relation.name);
                for column in &relation.columns {
                    match column.type_oid {
                        FIRST_USER_OID.. => write!(line, " {} user", column.name),
                        oid => write!(line, " {} {oid}", column.name),
                    }
                    .unwrap();
                }
                line
            }
            Message::Insert { relation, tuple } => {
                format!("  insert {}: {}", name(relation), cells(tuple))
            }
            Message::Update { relation } => format!("  update {}", name(relation)),
            Message::Delete { relation } => format!("  delete {}", name(relation)),
            Message::Truncate { relations } => {
                let names: Vec<String> = relations.iter().map(name).collect();
                format!("  truncate {}", names.join(", "))
            }
            Message::Emitted { is_transactional, prefix, content, .. } => {
                let [prefix, content] = [prefix, content].map(|it| String::from_utf8_lossy(it));
                format!("  message {prefix}: {content}, transactional: {is_transactional}")
            }
        };
        lines.push(line);
    }
    lines.join("\n") + "\n"
}

fn cells(tuple: &Tuple) -> String {
    let mut cells = Vec::new();
    tuple.read_into(&mut cells).unwrap();
    let text = cells.into_iter().map(|cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Unchanged => "unchanged".to_owned(),
        Cell::Binary => "binary".to_owned(),
        Cell::Text { start, end } if end - start > 100 => format!("{} bytes", end - start),
        Cell::Text { .. } => String::from_utf8(tuple.text(cell).unwrap().to_vec()).unwrap(),
    });
    text.collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_server_says_the_same_and_it_is_understood() {
    for (major, capture) in CAPTURES {
        let listing = listing(capture);
        assert_eq!(listing, EXPECTED, "Postgres {major} says:\n{listing}");
    }
}

fn try_to_read(bytes: &Bytes) {
    if let Ok(Message::Insert { tuple, .. }) = decode(bytes) {
        let mut cells = Vec::new();
        let _ = tuple.read_into(&mut cells);
        for cell in cells {
            let _ = (tuple.text(cell), tuple.bytes(cell));
        }
    }
}

#[test]
fn a_message_cut_short_is_an_error() {
    for bytes in ALL.iter() {
        for len in 0..bytes.len() {
            let cut = bytes.slice(..len);
            try_to_read(&cut);
            // What updates and deletes hold is not read.
            match decode(&cut) {
                Err(_) | Ok(Message::Update { .. } | Message::Delete { .. }) => {}
                Ok(Message::Insert { tuple, .. }) => {
                    assert!(tuple.read_into(&mut Vec::new()).is_err(), "{len} of {bytes:x}");
                }
                Ok(message) => panic!("{len} of {bytes:x} became {message:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        try_to_read(&Bytes::from(bytes));
    }

    #[test]
    fn no_bytes_behind_a_tag_make_it_panic(
        tag in prop::sample::select(b"BCORYIUDTM".to_vec()),
        rest in prop::collection::vec(prop_oneof![Just(0), Just(255), Just(b'N'), Just(b't'), any::<u8>()], 0..60),
    ) {
        try_to_read(&std::iter::once(tag).chain(rest).collect());
    }

    #[test]
    fn no_change_of_real_bytes_makes_it_panic(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8), 1..6),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = which.get(&ALL[..]).to_vec();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
        }
        bytes.truncate(len.index(bytes.len() + 1));
        try_to_read(&Bytes::from(bytes));
    }
}
