//! Was every promise kept?

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::consumer::Delivery;
use crate::workload::{Event, Ledger};

/// Counts of events. Everything but `committed`, `delivered` and `latency` should be 0, and `repeated` small.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub committed: usize,
    /// Different events that came.
    pub delivered: usize,
    /// Committed, never delivered.
    pub lost: usize,
    /// Delivered, never committed.
    pub phantom: usize,
    /// Copies after the first. Those that the broker itself gave out again are not counted.
    pub repeated: usize,
    /// First copies that came after a later event of their aggregate.
    pub out_of_order: usize,
    /// Bodies that are not what was committed, where bodies were kept.
    pub altered: usize,
    /// Rows without `relayed_at`.
    pub unmarked: usize,
    /// From asking for the commit to the first copy's arrival.
    pub latency: Latency,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Latency {
    pub fn of(mut samples: Vec<Duration>) -> Latency {
        samples.sort_unstable();
        let at = |hundredths: usize| {
            let index = (samples.len() * hundredths).div_ceil(100).saturating_sub(1);
            samples.get(index).copied().unwrap_or_default()
        };
        Latency { p50: at(50), p99: at(99), max: at(100) }
    }
}

impl Verdict {
    /// What was promised and not kept, in words; empty if all is well.
    pub fn broken(&self, repeats_allowed: usize) -> Vec<String> {
        let counts = [
            ("lost", self.lost, 0),
            ("phantom", self.phantom, 0),
            ("out of order", self.out_of_order, 0),
            ("altered", self.altered, 0),
            ("unmarked", self.unmarked, 0),
            ("repeated", self.repeated, repeats_allowed),
        ];
        let broken = counts.into_iter().filter(|(_, count, allowed)| count > allowed);
        broken
            .map(|(name, count, allowed)| format!("{name}: {count}, allowed: {allowed}"))
            .collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict {
            committed,
            delivered,
            lost,
            phantom,
            repeated,
            out_of_order,
            altered,
            unmarked,
            latency,
        } = self;
        writeln!(f, "committed {committed}, delivered {delivered}")?;
        writeln!(
            f,
            "lost {lost}, phantom {phantom}, repeated {repeated}, out of order per aggregate {out_of_order}, altered {altered}, unmarked {unmarked}"
        )?;
        write!(
            f,
            "commit to consumer: p50 {:.1?}, p99 {:.1?}, max {:.1?}",
            latency.p50, latency.p99, latency.max
        )
    }
}

/// Compares what came, in the order it came, with what was committed. `unmarked` is for [`unmarked`] to tell.
pub fn check(ledger: &Ledger, deliveries: &[Delivery], unmarked: usize) -> Verdict {
    let mut verdict = Verdict { committed: ledger.committed.len(), unmarked, ..Verdict::default() };
    let mut seen = HashSet::new();
    let mut latest = HashMap::new();
    let mut latencies = Vec::new();
    for delivery in deliveries {
        let Some((id, event)) = known(ledger, delivery) else {
            verdict.phantom += 1;
            continue;
        };
        if !seen.insert(id) {
            verdict.repeated += usize::from(!delivery.redelivered);
            continue;
        }
        let latest = latest.entry(event.aggregate.as_str()).or_insert(0);
        verdict.out_of_order += usize::from(event.n < *latest);
        *latest = event.n.max(*latest);
        verdict.altered += usize::from(is_altered(event, delivery));
        latencies.push(delivery.arrived.duration_since(event.commit_sent).unwrap_or_default());
    }
    verdict.delivered = seen.len();
    verdict.lost = verdict.committed - verdict.delivered;
    verdict.latency = Latency::of(latencies);
    verdict
}

fn known<'a>(ledger: &'a Ledger, delivery: &Delivery) -> Option<(Uuid, &'a Event)> {
    let id = delivery.id?;
    Some((id, ledger.committed.get(&id)?))
}

fn is_altered(event: &Event, delivery: &Delivery) -> bool {
    if delivery.body.is_empty() && delivery.properties.message_id().is_none() {
        // Content was not kept.
        return false;
    }
    delivery.json().map_or(true, |body| {
        body.get("aggregate").and_then(|value| value.as_str()) != Some(&event.aggregate)
            || body.get("n").and_then(|value| value.as_i64()) != Some(event.n)
    })
}

/// Rows of the table without `relayed_at`.
pub async fn unmarked(client: &Client, table: &str) -> Result<usize> {
    let sql = format!("SELECT count(*) FROM {table} WHERE relayed_at IS NULL");
    Ok(usize::try_from(client.query_one(&sql, &[]).await?.try_get::<_, i64>(0)?)?)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn delivery(id: u128, redelivered: bool) -> Delivery {
        Delivery {
            id: Some(Uuid::from_u128(id)),
            arrived: SystemTime::now(),
            redelivered,
            routing_key: String::new(),
            properties: Default::default(),
            body: Vec::new(),
        }
    }

    /// Events 1 to 4 of one aggregate were committed, 9 was rolled back.
    fn ledger() -> Ledger {
        let event = |n| Event { aggregate: "a".to_owned(), n, commit_sent: SystemTime::now() };
        let committed =
            [(1, 1), (2, 2), (3, 3), (4, 4)].map(|(id, n)| (Uuid::from_u128(id), event(n)));
        let mut ledger = Ledger { committed: committed.into(), ..Ledger::default() };
        ledger.rolled_back.insert(Uuid::from_u128(9));
        ledger
    }

    fn verdict(deliveries: &[(u128, bool)]) -> Verdict {
        let deliveries: Vec<_> =
            deliveries.iter().map(|(id, again)| delivery(*id, *again)).collect();
        check(&ledger(), &deliveries, 0)
    }

    #[test]
    fn all_is_well() {
        let well = verdict(&[(1, false), (2, false), (3, false), (4, true)]);
        assert!(well.broken(0).is_empty(), "{well}");
        assert_eq!((well.committed, well.delivered), (4, 4));
    }

    #[test]
    fn each_broken_promise_is_seen() {
        let bad = verdict(&[(1, false), (3, false), (2, false), (9, false), (1, false), (3, true)]);
        assert_eq!((bad.lost, bad.phantom, bad.repeated, bad.out_of_order), (1, 1, 1, 1));
        assert_eq!(bad.broken(0).len(), 4);
        assert_eq!(bad.broken(1).len(), 3);
    }

    #[test]
    fn late_copies_are_not_out_of_order() {
        assert_eq!(
            verdict(&[(1, false), (2, false), (1, false), (2, false), (3, false)]).out_of_order,
            0
        );
    }

    #[test]
    fn percentiles() {
        let latency = Latency::of((1..=200).rev().map(Duration::from_millis).collect());
        let millis = [latency.p50, latency.p99, latency.max].map(|duration| duration.as_millis());
        assert_eq!(millis, [100, 198, 200]);
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
