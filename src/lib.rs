//! pgoutbox relays a Postgres outbox table to RabbitMQ.

pub mod commands;
pub mod config;
pub mod declare;
pub mod error;
pub mod event;
pub mod marker;
pub mod marks;
pub mod message;
pub mod pgoutput;
pub mod postgres;
pub mod progress;
pub mod publisher;
pub mod relation;
pub mod relay;
pub mod session;
pub mod slot;
pub mod sql;
pub mod supervisor;
pub mod tls;
pub mod wal;
pub mod window;
