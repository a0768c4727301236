//! A private Postgres.

mod binaries;
mod cluster;
mod faults;
mod standby;
mod template;

pub use cluster::{Auth, Options, Postgres, ServerTls, connect, slot_lag_bytes};
pub use faults::Shutdown;

/// Whether there is a Postgres to start here, or what to do about it.
pub fn installed() -> anyhow::Result<()> {
    binaries::Binaries::find().map(drop)
}
