//! Private servers, faults, load and a checker: what the tests, the benches and the demo of pgoutbox share.
//!
//! ```text
//!   workload ──► Postgres ──► proxy ──► relay (the real binary) ──► proxy ──► RabbitMQ ──► consumer
//!       │                                                                                     │
//!       └── ledger: what was committed, what was rolled back ──► checker ◄── deliveries ───────┘
//! ```
//!
//! Servers are private: free loopback ports, data in a directory of their own, ended with the test process whatever
//! way it goes ([`reaper`]). A server that runs on the machine already is never touched. Most tests take the
//! [`shared`] pair and a database and a vhost of their own; a test that breaks a server starts one for itself.
//!
//! The product does not depend on this crate.

#![allow(
    missing_docs,
    reason = "names and types say what a test needs; docs are kept for what they do not say"
)]

pub mod browser;
pub mod certs;
pub mod checker;
pub mod collector;
pub mod consumer;
pub mod corner;
pub mod events;
pub mod fake_broker;
pub mod http;
pub mod npm;
pub mod pgbouncer;
mod port;
pub mod postgres;
mod process;
pub mod proxy;
pub mod rabbitmq;
mod reaper;
pub mod relay;
mod roles;
pub mod scenario;
mod serving;
pub mod setting;
pub mod shared;
pub mod stream;
pub mod usage;
mod user;
pub mod wait;
pub mod wire;
pub mod workload;

pub use port::free as free_port;
pub use process::{Signal, signal};
pub use reaper::end_container_with_us;
pub use wait::{retry, wait_closely, wait_for, wait_until};
