//! The real relay between real servers: private ones, which the harness starts and ends.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no readers of its API")]

mod audit;
mod bare;
mod commands;
mod flow;
mod message;
mod refused;
mod returns;
mod secrets;
mod setting;
mod tables;
mod tls;
