//! What our own code costs per event: time, and allocations, which are a figure of their own.
//! `cargo bench --bench hot_path`; every line is per event, those of transactions too.
//!
//! `tests/allocations.rs` holds the whole way to a bound.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench fails by panicking"
)]

mod steps;

use divan::{AllocProfiler, Bencher};
use model::journey::Journey;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// From the bytes to the message, and from the confirm to the batch of marks.
#[divan::bench(args = [1, 100], sample_size = 1_000)]
fn all_of_the_way_in_transactions_of(bencher: Bencher<'_, '_>, rows: usize) {
    let mut journey = Journey::new(rows, 0);
    // The buffers find their sizes.
    (0..10_000).for_each(|_| journey.event());
    bencher.bench_local(|| journey.event());
}

/// Likewise, with headers.
#[divan::bench(args = [3, 10], sample_size = 1_000)]
fn all_of_the_way_with_headers(bencher: Bencher<'_, '_>, headers: usize) {
    let mut journey = Journey::new(1, headers);
    (0..10_000).for_each(|_| journey.event());
    bencher.bench_local(|| journey.event());
}

fn main() {
    divan::main();
}
