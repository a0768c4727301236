//! The harness against real servers: one binary, so that the shared ones start once.

mod flow;
mod proxy;
mod reaper;
mod relay;
mod servers;
