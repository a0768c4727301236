//! What a scenario is, and the list of all.

use std::pin::Pin;

use anyhow::Result;

use crate::round::{Outcome, Round};
use crate::{
    clock, disk, failover, frozen, huge, killed, refused, restarted, schema, streams, wires,
};

type Running = Pin<Box<dyn Future<Output = Result<Outcome>>>>;

pub struct Scenario {
    pub name: &'static str,
    /// Whether one round is cheap enough for `make test`.
    pub is_short: bool,
    /// What the product cannot do yet.
    pub needs: Option<&'static str>,
    pub run: fn(Round) -> Running,
}

/// What is switched on once the product has it.
const CAN: [&str; 1] = ["catch-up"];

const fn long(name: &'static str, run: fn(Round) -> Running) -> Scenario {
    Scenario { name, is_short: false, needs: None, run }
}

impl Scenario {
    const fn short(mut self) -> Self {
        self.is_short = true;
        self
    }

    const fn needs(mut self, what: &'static str) -> Self {
        self.needs = Some(what);
        self
    }

    pub fn is_missing(&self) -> Option<&'static str> {
        self.needs.filter(|what| !CAN.contains(what))
    }
}

macro_rules! run {
    ($scenario:expr) => {
        |round| Box::pin($scenario(round))
    };
}

const CATCH_UP: &str = "catch-up";

#[rustfmt::skip]
pub const SCENARIOS: &[Scenario] = &[
    long("relay-killed", run!(killed::relay)).short(),
    long("broker-killed", run!(killed::broker)).short(),
    long("postgres-killed", run!(killed::postgres)).short(),
    long("relay-and-postgres-killed", run!(killed::relay_and_postgres)),
    long("all-killed", run!(killed::all)),

    long("streams-relay-killed", run!(streams::relay)).short(),
    long("streams-broker-killed", run!(streams::broker)),
    long("streams-postgres-killed", run!(streams::postgres)),
    long("streams-all-killed", run!(streams::all)),
    long("streams-wire-cut", run!(streams::wire)),

    long("relay-restarted", run!(restarted::relay)).short(),
    long("broker-restarted", run!(restarted::broker)),
    long("postgres-restarted", run!(restarted::postgres)).short(),
    long("connections-ended-by-operators", run!(restarted::connections)),

    long("relay-frozen", run!(frozen::relay)).short(),
    long("broker-frozen", run!(frozen::broker)),
    long("postgres-frozen", run!(frozen::postgres)),
    long("memory-alarm", run!(frozen::memory_alarm)),
    long("disk-alarm", run!(frozen::disk_alarm)).short(),
    long("commits-wait-for-a-standby", run!(frozen::synchronous)).short(),

    long("stream-cut", run!(wires::stream_cut)).short(),
    long("stream-stalled", run!(wires::stream_stalled)),
    long("stream-half-a-message", run!(wires::stream_half)),
    long("audit-cut", run!(wires::audit_cut)).short(),
    long("audit-stalled", run!(wires::audit_stalled)),
    long("audit-half-a-message", run!(wires::audit_half)),
    long("amqp-cut", run!(wires::amqp_cut)).short(),
    long("amqp-stalled", run!(wires::amqp_stalled)).short(),
    long("amqp-half-a-message", run!(wires::amqp_half)),

    long("queue-full-while-it-drains", run!(refused::overflow)).short(),
    long("queue-limit-cleared", run!(refused::limit_cleared)),
    long("binding-removed", run!(refused::binding)).short(),
    long("exchange-deleted", run!(refused::exchange)).short(),
    long("write-permission-revoked", run!(refused::permission)),
    long("broker-password-changed", run!(refused::broker_password)),
    long("postgres-password-changed", run!(refused::postgres_password)),
    long("mark-permission-revoked", run!(refused::mark_permission)).short(),
    long("body-too-large", run!(refused::body)).short(),
    long("header-too-large", run!(refused::header)),
    long("bad-property", run!(refused::property)),

    long("table-altered", run!(schema::altered)).short(),
    long("publication-dropped", run!(schema::publication_dropped)).needs(CATCH_UP),
    long("table-dropped", run!(schema::table_dropped)).needs(CATCH_UP),
    long("slot-dropped", run!(schema::slot_dropped)).needs(CATCH_UP),

    long("promoted-with-the-slot", run!(failover::with_slot)),
    long("promoted-without-the-slot", run!(failover::without_slot)).needs(CATCH_UP),

    long("clock-jumps", run!(clock::jumps)).short(),
    long("huge-transaction-cut", run!(huge::cut)),
    long("wal-disk-full", run!(disk::full)),
];
