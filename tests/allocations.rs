//! What an event costs the allocator on its way through our own code, held to a bound.

#![allow(missing_docs, clippy::expect_used, reason = "a test binary: it fails by panicking")]

use std::alloc::System;

use model::journey::Journey;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations per event, from the stream's bytes to the message and from its confirm to the batch
/// of marks: the message's names, properties and headers, and the id of the row, which its mark needs when
/// all else is gone.
const BOUND: f64 = 2.0;
/// On top of that come those of a whole batch of confirms or marks, divided among its events.
const OF_BATCHES: f64 = 0.05;

/// Until the buffers have their size.
const WARM_UP: u32 = 2_000;
const EVENTS: u32 = 10_000;

fn per_event(rows: usize, headers: usize) -> f64 {
    let mut journey = Journey::new(rows, headers);
    (0..WARM_UP).for_each(|_| journey.event());
    let region = Region::new(ALLOCATOR);
    (0..EVENTS).for_each(|_| journey.event());
    let change = region.change();
    assert!(journey.marked >= EVENTS as usize, "the events came to their marks");
    let count = u32::try_from(change.allocations + change.reallocations).expect("few");
    f64::from(count) / f64::from(EVENTS)
}

// One test: the count is of the whole process.
#[test]
fn an_event_costs_few_allocations() {
    let [one, hundred] = [1, 100].map(|rows| per_event(rows, 0));
    let [three, ten] = [3, 10].map(|headers| per_event(1, headers));
    println!("allocations per event, in transactions of 1: {one:.3}, of 100: {hundred:.3}");
    println!("with 3 headers: {three:.3}, with 10: {ten:.3}");
    for (count, of) in [
        (one, "in transactions of 1"),
        (hundred, "in transactions of 100"),
        (three, "with 3 headers of its own"),
        (ten, "with 10 headers of its own"),
    ] {
        assert!(count <= BOUND + OF_BATCHES, "{count:.3} {of}, more than {BOUND}");
    }
}
