//! `pgoutbox size`: what a load needs, from what was measured.

use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::say;
use crate::text::span;

/// Says what a load needs: window, limits of WAL and disk, queues, relays, processors, and how long a backlog takes.
/// From costs that were measured on two cores of a server (docs/sizing.md has them and the formulas): a place to begin, not a
/// promise. Connects to nothing.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  pgoutbox size --events-per-second 2000 --bytes 500\n  \
    pgoutbox size --events-per-second 20000 --bytes 2KiB --outage 12h --keep 1day --json")]
pub(super) struct Args {
    /// Events a second, at the busiest time
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events_per_second: u32,
    /// Size of a body, such as 500 or 2KiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes: u64,
    /// The longest outage of RabbitMQ, or of the relay, that is to be survived
    #[arg(long, value_name = "TIME", default_value = "4h", value_parser = super::bounds::span)]
    outage: Duration,
    /// How long delivered rows are kept: prune.keep
    #[arg(long, value_name = "TIME", default_value = "7days", value_parser = super::bounds::span)]
    keep: Duration,
    /// From publish to confirm
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = super::bounds::span)]
    confirm: Duration,
    /// WAL that others write in a second, on the whole server
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size)]
    other_wal: u64,
    /// audit.mode
    #[arg(long, value_name = "MODE", default_value = "update", value_parser = ["update", "side_table", "delete", "none"])]
    audit: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn size(text: &str) -> Result<u64, String> {
    let size = text.trim().parse().map(|ByteSize(bytes)| bytes);
    size.map_err(|_| "write a number of bytes, such as 500, 2KiB or 1MiB".to_owned())
}

/// What was measured: `docs/benchmarks.md` has each figure.
mod measured {
    /// WAL of an insert, beside the body.
    pub(super) const INSERT: u64 = 280;
    /// WAL of a mark in the row, beside the row's own bytes.
    pub(super) const MARK_UPDATE: u64 = 167;
    /// WAL of a mark in the side table.
    pub(super) const MARK_SIDE_TABLE: u64 = 330;
    /// WAL of a deleted row: its place and its key.
    pub(super) const MARK_DELETE: u64 = 72;
    /// A body above this is kept out of the row, and a mark does not write it again.
    pub(super) const TOAST: u64 = 2_000;
    /// Row and indexes on disk, beside the body.
    pub(super) const ROW: u64 = 220;
    /// CPU for an event, in tenths of a microsecond: relay, walsender, marks, broker.
    pub(super) const CPU: [(&str, u64); 4] =
        [("relay", 61), ("walsender", 168), ("marks", 106), ("broker", 970)];
    /// Events in a second that a quorum queue takes of bodies of 500 bytes.
    pub(super) const QUEUE: u64 = 10_000;
    /// Bytes of bodies in a second that a quorum queue writes on an ordinary disk, at most.
    pub(super) const QUEUE_BYTES: u64 = 100 << 20;
    /// Events in a second that one walsender reads, with a core for itself.
    pub(super) const WALSENDER: u64 = 50_000;
    /// Memory of the relay with an empty window.
    pub(super) const MEMORY: u64 = 25 << 20;
}

/// What a load needs.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    window_messages: u64,
    window_bytes: u64,
    memory: u64,
    /// WAL in a second, with that of others.
    wal: u64,
    /// WAL that waits after the outage.
    kept_wal: u64,
    /// What `max_slot_wal_keep_size` is to be: half as much again.
    wal_limit: u64,
    table: u64,
    queues: u64,
    relays: u64,
    /// CPU in thousandths of a core.
    cores: Vec<(&'static str, u64)>,
    /// How long the backlog of the outage takes; `None`: it never ends.
    catch_up: Option<Duration>,
}

impl Plan {
    fn of(args: &Args) -> Self {
        let (rate, body) = (u64::from(args.events_per_second), args.bytes);
        let in_flight = rate.saturating_mul(millis(args.confirm)) / 1_000;
        // Twice what is in flight at the usual time of a confirm: a slow one does not stop it.
        let window_messages = (2 * in_flight).clamp(1_000, 65_535);
        let window_bytes = window_messages.saturating_mul(body).clamp(1 << 20, 256 << 20);
        let mark = match args.audit.as_str() {
            "side_table" => measured::MARK_SIDE_TABLE,
            "delete" => measured::MARK_DELETE,
            "none" => 0,
            _ => measured::MARK_UPDATE + body.min(measured::TOAST),
        };
        // While nothing is delivered nothing is marked; afterwards both go on at once.
        let event_wal = measured::INSERT.saturating_add(body);
        let wal =
            rate.saturating_mul(event_wal.saturating_add(mark)).saturating_add(args.other_wal);
        let outage = args.outage.as_secs();
        let kept_wal =
            rate.saturating_mul(event_wal).saturating_add(args.other_wal).saturating_mul(outage);
        let is_kept = !matches!(args.audit.as_str(), "delete");
        let kept = if is_kept { args.keep.as_secs() } else { outage };
        let queues = rate
            .div_ceil(measured::QUEUE)
            .max(rate.saturating_mul(body).div_ceil(measured::QUEUE_BYTES))
            .max(1);
        let relays = rate.div_ceil(measured::WALSENDER);
        let most = (queues * measured::QUEUE).min(relays * measured::WALSENDER);
        let is_marking = args.audit != "none";
        let cpu = measured::CPU.iter().filter(|(who, _)| is_marking || *who != "marks");
        Self {
            window_messages,
            window_bytes,
            memory: measured::MEMORY + window_bytes * 5 / 4,
            wal,
            kept_wal,
            wal_limit: kept_wal.saturating_add(kept_wal / 2),
            table: rate.saturating_mul(measured::ROW.saturating_add(body)).saturating_mul(kept),
            queues,
            relays,
            cores: cpu.map(|(who, tenths)| (*who, rate * tenths / 10_000)).collect(),
            // At the busiest time events go on coming.
            catch_up: (most > rate)
                .then(|| Duration::from_secs(rate.saturating_mul(outage) / (most - rate))),
        }
    }

    fn json(&self) -> Value {
        let cores = self.cores.iter().map(|(who, thousandths)| (*who, cores(*thousandths)));
        json!({
            "window_messages": self.window_messages,
            "window_bytes": self.window_bytes,
            "relay_memory_bytes": self.memory,
            "wal_bytes_per_second": self.wal,
            "kept_wal_bytes": self.kept_wal,
            "max_slot_wal_keep_size_bytes": self.wal_limit,
            "table_bytes": self.table,
            "queues": self.queues,
            "relays": self.relays,
            "cores": cores.collect::<std::collections::BTreeMap<_, _>>(),
            "catch_up_seconds": self.catch_up.map(|it| it.as_secs()),
        })
    }
}

#[allow(clippy::cast_precision_loss)] // a figure for people
fn cores(thousandths: u64) -> f64 {
    thousandths as f64 / 1e3
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Prints what is needed.
pub(super) fn run(args: &Args) {
    let plan = Plan::of(args);
    if args.json {
        crate::cli::say_json(plan.json());
    } else {
        print(args, &plan);
    }
}

fn print(args: &Args, plan: &Plan) {
    let line = |name: &str, value: String| say(format_args!("{name:<12}{value}"));
    let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
    let outage = span(args.outage);
    line(
        "window",
        format!(
            "window.messages = {}, window.bytes = \"{}MiB\"",
            plan.window_messages,
            plan.window_bytes.div_ceil(1 << 20)
        ),
    );
    line("memory", format!("{} for the relay at most", size(plan.memory)));
    let each: Vec<String> =
        plan.cores.iter().map(|(who, it)| format!("{who} {:.2}", cores(*it))).collect();
    line("cores", each.join(", "));
    line("wal", format!("{} a second while events are delivered and marked", size(plan.wal)));
    line(
        "wal kept",
        format!(
            "{} after {outage} without delivery: max_slot_wal_keep_size = {}MB, guard.disk_limit no more than the disk can hold",
            size(plan.kept_wal),
            plan.wal_limit.div_ceil(1 << 20)
        ),
    );
    let kept = if args.audit == "delete" {
        format!("in {outage} without delivery")
    } else {
        format!("kept for {}", span(args.keep))
    };
    line("table", format!("{} of rows, {kept}", size(plan.table)));
    line(
        "queues",
        match plan.queues {
            1 => "one quorum queue; a classic one where messages may be lost with their node"
                .to_owned(),
            count => format!(
                "{count} quorum queues by routing key, or a stream: one queue takes some {} events a second",
                measured::QUEUE
            ),
        },
    );
    line(
        "relays",
        match plan.relays {
            1 => "one, and a standby".to_owned(),
            count => format!(
                "{count}, each with a slot, a publication whose row filter takes a part of the aggregates, and a standby"
            ),
        },
    );
    line(
        "backlog",
        match plan.catch_up {
            Some(time) => format!(
                "that of {outage} is delivered within {} while events go on coming at this rate",
                span(time)
            ),
            None => format!(
                "that of {outage} is delivered only once events come more slowly: add a queue, or a relay"
            ),
        },
    );
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> Plan {
        let words = std::iter::once("size").chain(line.split(' '));
        Plan::of(&Line::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn a_small_load_is_one_of_each() {
        let small = plan("--events-per-second 200 --bytes 500");
        assert_eq!((small.window_messages, small.queues, small.relays), (1_000, 1, 1));
        assert_eq!(small.wal, 200 * (780 + 667), "as measured");
        assert_eq!(small.kept_wal, 200 * 780 * 4 * 3_600);
        assert_eq!(small.catch_up, Some(Duration::from_secs(200 * 4 * 3_600 / 9_800)));
    }

    #[test]
    fn a_large_load_is_spread() {
        let large = plan("--events-per-second 120000 --bytes 500 --confirm 1s");
        assert_eq!((large.window_messages, large.queues, large.relays), (65_535, 12, 3));
        assert_eq!(large.catch_up, None, "all of it is needed for what comes");
        assert_eq!(plan("--events-per-second 1000 --bytes 1MiB").queues, 10, "by bytes");
    }

    #[test]
    fn what_is_not_marked_writes_less() {
        let wal =
            |audit| plan(&format!("--events-per-second 1000 --bytes 500 --audit {audit}")).wal;
        assert!(wal("none") < wal("delete") && wal("delete") < wal("side_table"));
        assert!(wal("side_table") < wal("update"));
        let none = plan("--events-per-second 1000 --bytes 500 --audit none");
        assert!(none.cores.iter().all(|(who, _)| *who != "marks"));
    }

    #[test]
    fn no_load_overflows() {
        let most = plan(
            "--events-per-second 10000000 --bytes 1000TiB --outage 3650days --keep 3650days --other-wal 1000TiB",
        );
        assert!(most.wal_limit >= most.kept_wal && most.queues > 1);
    }
}
