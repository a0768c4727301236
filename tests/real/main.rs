//! The real relay between real servers: private ones, which the harness starts and ends.

#![allow(missing_docs, unreachable_pub, reason = "a test binary has no readers of its API")]

mod setting;

mod ddl;
mod drain;
mod flow;
mod kill;
mod mark;
mod progress;
mod publication;
mod restart;
mod roles;
mod standby;
mod transactions;
mod wire;
