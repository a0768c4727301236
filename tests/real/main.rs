//! The real relay between real servers: private ones, which the harness starts and ends.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    reason = "a test binary has no readers of its API"
)]

mod audit;
mod bare;
mod commands;
mod ddl;
mod drain;
mod flow;
mod kill;
mod mark;
mod message;
mod parked;
mod progress;
mod publication;
mod reconcile;
mod refused;
mod replay;
mod restart;
mod returns;
mod roles;
mod secrets;
mod setting;
mod standby;
mod tables;
mod tls;
mod transactions;
mod wire;
