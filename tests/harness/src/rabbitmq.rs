//! A private RabbitMQ node.

mod binaries;
mod definitions;
mod faults;
mod node;

pub use definitions::Permissions;
pub use node::{Options, RabbitMq, ServerTls, connect};
