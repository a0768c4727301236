//! The simulated world: a model of Postgres and one of RabbitMQ drive the real state machine
//! through random scripts of work, faults and crashes, and the rules of the relay are checked
//! at every step, by what the models know and not by what the relay believes.
//!
//! - `PGOUTBOX_SEED=n` replays one round and prints its whole script where it fails.
//! - `PGOUTBOX_ROUNDS=n` runs so many rounds instead of the default.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use model::script::Script;
use model::world::{Tally, World};

const ROUNDS: u64 = 300;
/// As many of these, from this seed on, are of a relay whose events go to a stream.
const OF_STREAMS: u64 = 10_000;
const STREAM_ROUNDS: u64 = 150;
/// And as many of a relay that publishes to a stream and to exchanges.
const OF_BOTH: u64 = 20_000;
/// Of both: a channel is closed over an event, with others in flight to the stream.
const CLOSED_OF_BOTH: u64 = 20_161;
/// A seed beyond them that found a fault: a late batch parked behind the back of the next session.
const FOUND: u64 = 1_003;
/// Of a stream: an event is put aside, and lost by a crash, behind which a higher id was sent.
const FOUND_OF_STREAMS: u64 = 10_642;
/// Of a stream: an event waits for what the next ones show, behind which a higher id was sent.
const ON_TRIAL_OF_STREAMS: u64 = 11_195;
/// Steps of a round, for the first and the last: short scripts first, so that the first one
/// that fails is easy to read.
const STEPS: (u64, u64) = (40, 1_500);
/// Lines of the script that are shown without being asked for.
const LAST_LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn round(seed: u64, lines: usize) -> Option<Tally> {
    let script = Rc::new(Script::new(seed));
    // By the seed alone, so that a replay has as many.
    let steps = STEPS.0 + (seed % OF_STREAMS * 5).min(STEPS.1 - STEPS.0);
    let world = match seed / OF_STREAMS {
        0 => World::new,
        1 => World::of_streams,
        _ => World::of_both,
    };
    let run = || world(Rc::clone(&script)).run(steps);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(tally) => Some(tally),
        Err(_) => {
            println!("… {}", script.last(lines).join("\n  "));
            println!("seed {seed} failed: PGOUTBOX_SEED={seed} cargo test --test simulated");
            None
        }
    }
}

#[test]
fn the_rules_hold_whatever_happens() {
    if let Some(seed) = number("PGOUTBOX_SEED") {
        let tally = round(seed, usize::MAX).expect("the round failed");
        println!("{tally:?}");
        return;
    }
    let mut total = Tally::default();
    let (rounds, of_streams) = match number("PGOUTBOX_ROUNDS") {
        Some(rounds) => (rounds, rounds),
        None => (ROUNDS, STREAM_ROUNDS),
    };
    let seeds = (0..rounds)
        .chain([FOUND])
        .chain(OF_STREAMS..OF_STREAMS + of_streams)
        .chain([FOUND_OF_STREAMS, ON_TRIAL_OF_STREAMS])
        .chain(OF_BOTH..OF_BOTH + of_streams)
        .chain([CLOSED_OF_BOTH]);
    for seed in seeds {
        total += round(seed, LAST_LINES).expect("a round failed");
    }
    println!("{total:#?}");
    total.check_that_it_was_worth_it();
}
