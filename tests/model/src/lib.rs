//! The state machine without servers: models of Postgres and RabbitMQ that drive it through scripts,
//! and a straight way through the code that every event takes. What `tests/simulated.rs`,
//! `tests/fuzz`, `tests/real/conformance.rs`, `tests/allocations.rs` and `benches/hot_path` share.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it is called by tests, which fail by panicking"
)]

mod broker;
pub mod defaults;
pub mod journey;
pub mod parking;
mod pgoutput;
mod postgres;
mod rules;
pub mod script;
pub mod world;
