//! Fuzzing on stable, for a short time: each target of [`targets`] gets its corpus
//! (`tests/fuzz/corpus`), then random changes of it.
//!
//! - `PGOUTBOX_FUZZ_SECONDS=n` goes on so long with each target instead of the default.
//! - `PGOUTBOX_SEED=n` makes the same changes again. In CI (`CI=true`) it is the number of the day.
//!
//! What breaks a target is printed as a file to put into its corpus. A target takes any bytes,
//! so that a fuzzer that is guided by coverage can call it as well.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod targets;

use pgoutbox::testing::network;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of an input at most.
const LONGEST: usize = 4_096;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// In CI that of the day: a run that failed can be repeated, and no two days look at the same.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    match std::env::var_os("CI") {
        Some(_) => since.as_secs() / 86_400,
        None => fastrand::u64(..1 << 32),
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).expect("a corpus");
    let mut files: Vec<PathBuf> = files.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

fn fuzz(name: &str, target: fn(&[u8]), words: &[&str]) {
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        let outcome = catch_unwind(|| target(bytes));
        assert!(outcome.is_ok(), "{} breaks {name}", path.display());
    }
    let seed = number("PGOUTBOX_SEED").unwrap_or_else(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let lasts = Duration::from_secs(number("PGOUTBOX_FUZZ_SECONDS").unwrap_or(3));
    let since = Instant::now();
    let mut inputs = 0_u64;
    while since.elapsed() < lasts {
        let input = changed(&corpus, words, &mut random);
        inputs += 1;
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{seed}"));
            std::fs::write(&file, &input).expect("writable");
            panic!("seed {seed}, input {inputs} breaks {name}: {}", file.display());
        }
    }
    println!("{name}: {} in the corpus, {inputs} changed ones, seed {seed}", corpus.len());
}

/// One of the corpus, changed in some places.
fn changed(corpus: &[(PathBuf, Vec<u8>)], words: &[&str], random: &mut fastrand::Rng) -> Vec<u8> {
    let pick = |random: &mut fastrand::Rng| corpus[random.usize(..corpus.len())].1.clone();
    let mut input = pick(random);
    for _ in 0..random.usize(1..=6) {
        let at = random.usize(..=input.len());
        let until = (at + random.usize(..16)).min(input.len());
        match random.u8(..8) {
            0 | 1 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            2 if at < input.len() => {
                input[at] = *random.choice(&[0, 1, 127, 128, 255, b'\n', b'"']).expect("some");
            }
            3 => drop(input.drain(at..until)),
            4 => {
                let again = input[at..until].to_vec();
                input.splice(at..at, again);
            }
            5 => {
                let other = pick(random);
                let from = random.usize(..=other.len());
                input.splice(at..until, other[from..].iter().copied().take(64));
            }
            6 if !words.is_empty() => {
                let word = words[random.usize(..words.len())];
                input.splice(at..until, word.bytes());
            }
            _ => {
                let bytes: Vec<u8> = (0..random.usize(1..9)).map(|_| random.u8(..)).collect();
                input.splice(at..at, bytes);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn stream() {
    fuzz("stream", targets::stream, &["\0\0\0\x11\0\x03\0\x01", "\0\0\0\x01", "fuzzed"]);
}

#[test]
fn decode() {
    fuzz("decode", targets::decode, &[]);
}

#[test]
fn mapping() {
    fuzz("mapping", targets::mapping, &["{topic}", "\\x", "{\"a\": 1}", " | ", "infinity"]);
}

#[test]
fn envelope() {
    let words = [
        "\"id\":",
        "\"payload\":",
        "\"payload_text\":",
        "\"payload_base64\":",
        "\"headers\":{",
        "\"occurred_at\":\"2026-11-30T07:05:00Z\"",
        "null",
        "\\u0000",
        "\\ud800",
        "1e999",
        "[[[[",
        "{\"",
        "\",",
        "}",
    ];
    fuzz("envelope", targets::envelope, &words);
}

/// What comes from a network, before anybody has logged in.
#[test]
fn postgres() {
    fuzz("postgres", network::postgres, &["SFATAL", "C42501", "Mx", "\0"]);
}

#[test]
fn broker() {
    fuzz(
        "broker",
        network::broker,
        &["AMQP", "\u{ce}", "\u{0}<\u{0}P", "\u{0}<\u{0}2", "\u{0}<\u{0}x"],
    );
}

#[test]
fn certificates() {
    fuzz("certificates", targets::certificates, &[]);
}

#[test]
fn collector() {
    fuzz("collector", network::collector, &["\x0a", "\x08\x7f", "\x12\x05", "\x1b[2J"]);
}

#[test]
fn request() {
    let words = [
        "authorization: Bearer s3cret\n",
        "bearer ",
        "host: localhost:1\n",
        "origin: http://localhost:1\n",
        "[::1]",
        "\n\n",
        "{\"seqs\":[",
        "\"note\":\"",
        "9223372036854775808",
        "1e9",
    ];
    fuzz("request", network::request, &words);
}

#[test]
fn query() {
    fuzz("query", network::query, &["id=", "memory", "&", "%00", "%ff", "%", "%2"]);
}

#[test]
fn config() {
    let words = [
        "[[tables]]\n",
        "[window]\n",
        "PGOUTBOX_",
        "__0__",
        "_FILE",
        "{topic}",
        " | ",
        "%2f",
        "://",
        "@",
        "?sslmode=",
        "10s",
        "1GiB",
        "true",
        "\"\"\"",
        "= ",
        "--set ",
        "\n---\n",
        "[::1]",
        ",",
    ];
    fuzz("config", targets::config, &words);
}

#[test]
fn world() {
    fuzz("world", targets::world, &[]);
}
