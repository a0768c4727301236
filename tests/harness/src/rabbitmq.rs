//! A private RabbitMQ node.

mod binaries;
mod definitions;
mod faults;
mod node;

pub use definitions::Permissions;
pub use node::{Options, RabbitMq, ServerTls, connect};

/// Whether there is a RabbitMQ to start here, or what to do about it.
pub fn installed() -> anyhow::Result<()> {
    binaries::Binaries::find().map(drop)
}
