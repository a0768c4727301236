//! The real relay between real servers: private ones, which the harness starts and ends.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::indexing_slicing,
    reason = "a test binary has no readers of its API"
)]

mod aborted;
mod alerts;
mod attached;
mod attended;
mod audit;
mod audit_modes;
mod backoff;
mod catch_up;
mod caught_up;
mod check;
mod commands;
mod conformance;
mod crowd;
mod ddl;
mod defaults;
mod drain;
mod embedded;
mod encodings;
mod event;
mod faults;
mod filter;
mod flow;
mod gaps;
mod grants;
mod guard;
mod health;
mod hostile;
mod hosts;
mod http;
mod ids;
mod json;
mod kill;
mod large;
mod limit;
mod liveness;
mod many_parked;
mod mapping;
mod mark;
mod mark_partition;
mod mark_refused;
mod message;
mod messages;
mod migration;
mod missing;
mod operator;
mod output;
mod pages;
mod paper;
mod patterns;
mod outage;
mod parking;
mod parked;
mod parts;
mod place;
mod progress;
mod pause;
mod presets;
mod prune;
mod publication;
mod readings;
mod reconcile;
mod remembered;
mod refused;
mod reload;
mod replay;
mod recipes;
mod replay_range;
mod restart;
mod returns;
mod reused;
mod roles;
mod rotated;
mod row_lock;
mod schemas;
mod rule;
mod secrets;
mod service;
mod side_table;
mod shapes;
mod shards;
mod shares;
mod spans;
mod standby;
mod streams;
mod sweep;
mod swapped;
mod tables;
mod taken_over;
mod terminal;
mod tls;
mod transactions;
mod types;
mod unread_slot;
mod wire;

/// What a test is built of.
use harness::setting::{self, self as bare};
