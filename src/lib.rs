//! pgoutbox relays a Postgres outbox table to RabbitMQ.

pub mod commands;
pub mod config;
pub mod error;
pub mod event;
pub mod marks;
pub mod message;
pub mod pgoutput;
pub mod progress;
pub mod relation;
pub mod relay;
pub mod window;
