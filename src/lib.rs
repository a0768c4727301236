//! pgoutbox relays a Postgres outbox table to RabbitMQ.

pub mod config;
pub mod error;
pub mod pgoutput;
pub mod postgres;
pub mod relation;
pub mod slot;
pub mod sql;
pub mod tls;
