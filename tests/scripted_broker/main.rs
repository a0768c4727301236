//! The real relay and a real Postgres, and a broker that does what a real one does once in a
//! thousand times, or never should.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    reason = "a test binary has no readers of its API"
)]

mod absurd;
mod acks;
mod blocked;
mod broken;
mod dropped;
mod frames;
mod refused;
mod setting;
