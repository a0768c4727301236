//! Events into a RabbitMQ stream: what is in it at the end, all of it read.

mod both;
mod clients;
mod consumers;
mod content;
mod copied;
mod filters;
mod kills;
mod name;
mod parked;
mod partitioned;
mod routes;
mod shown;
mod tls;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::checker::{self, Verdict};
use harness::consumer::Delivery;
use harness::relay::Relay;
use harness::stream;
use harness::workload::Ledger;

use crate::setting::{PATIENCE, Setting, text};

/// The stream of these tests.
const STREAM: &str = "events";

/// All that the stream holds, once the relay has passed all that is committed and is drained: each event
/// once, in the order of the commits.
async fn judge(setting: &Setting, ledger: &Ledger, relay: &Relay) -> Result<Verdict> {
    setting.is_acknowledged(relay).await?;
    relay.drain(PATIENCE).await?;
    let held = stream::kept(stream::read(&setting.amqp_url, STREAM).await?);
    let verdict = checker::check(ledger, &held, setting.unmarked().await?);
    let broken = verdict.broken(0);
    ensure!(broken.is_empty(), "{broken:?}\n{verdict}\n{}", relay.log());
    in_commit_order(&held).with_context(|| relay.log())?;
    Ok(verdict)
}

/// Each event's place is behind the one before.
fn in_commit_order(held: &[Delivery]) -> Result<()> {
    let places = held.iter().map(place).collect::<Result<Vec<_>>>()?;
    for pair in places.windows(2) {
        ensure!(pair.first() < pair.last(), "out of the commits' order: {pair:?}");
    }
    Ok(())
}

/// The place of an event, as its headers say.
fn place(delivery: &Delivery) -> Result<(String, i64)> {
    let lsn = text(delivery, "pgoutbox-commit-lsn").context("no place")?;
    let index = delivery.header("pgoutbox-index").and_then(|index| index.as_long_long_int());
    Ok((lsn.to_owned(), index.context("no index")?))
}

/// How often each event is there, by its id, where that is not once.
fn repeats(held: &[Delivery]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for delivery in held {
        *counts.entry(crate::setting::id(delivery)).or_default() += 1;
    }
    counts.retain(|_, count| *count != 1);
    counts
}
