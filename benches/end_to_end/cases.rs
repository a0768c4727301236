//! What is measured: one list of named cases.

use std::time::Duration;

use anyhow::Result;
use harness::consumer::QueueType;

use crate::arguments::Arguments;
use crate::ceilings::Ceiling;
use crate::drain::{self, Plan, Targets};
use crate::fill::Shape;
use crate::report::Outcome;
use crate::servers::Servers;
use crate::{flat, idle, kills, outage, steady};

pub struct Case {
    pub name: &'static str,
    pub about: &'static str,
    /// In the short selection.
    is_quick: bool,
    kind: Kind,
}

enum Kind {
    /// A backlog of as many events as `--events` says.
    Compared {
        plan: Plan,
        pairs: usize,
    },
    /// A relay killed in the middle of a backlog.
    Killed {
        plan: Plan,
    },
    /// A backlog of so many events times `--scale`.
    Big {
        plan: Plan,
        events: u64,
    },
    FlatBacklog {
        events: u64,
    },
    FlatTable {
        rows: u64,
    },
    Idle {
        seconds: u64,
    },
    Outage {
        rate: u64,
        seconds: u64,
    },
    /// Steady load of so many events per second.
    Steady {
        rate: u64,
        is_stream: bool,
        confirms_slowed: Option<Duration>,
    },
}

const SHAPE: Shape = Shape { rows: 1, payload: 500, aggregates: 1_000 };
const PLAN: Plan = Plan {
    shape: SHAPE,
    queue_type: QueueType::Quorum,
    events: 0,
    pairs: 1,
    audit: "update",
    settings: &[],
    ceilings: &[Ceiling::Both],
    beside_none: false,
    beside_queue: false,
    is_far: None,
    targets: NO_TARGETS,
};
const NO_TARGETS: Targets = Targets {
    share: None,
    share_unmarked: None,
    marking: None,
    cpu_us: None,
    rss_mib: None,
    share_of_reading: None,
    times_the_queue: None,
};
const ALL: &[Ceiling] = &[Ceiling::Read, Ceiling::Publish, Ceiling::Both];
/// The targets; of CPU by the rows of a transaction.
const fn goals(cpu_us: f64) -> Targets {
    Targets {
        share: Some(0.9),
        share_unmarked: Some(0.97),
        marking: Some(0.15),
        cpu_us: Some(cpu_us),
        ..NO_TARGETS
    }
}
/// Those of a stream.
const fn stream_goals(times_the_queue: f64, cpu_us: f64) -> Targets {
    Targets {
        share_of_reading: Some([0.5, 0.8]),
        times_the_queue: Some(times_the_queue),
        cpu_us: Some(cpu_us),
        rss_mib: Some(32.0),
        ..NO_TARGETS
    }
}
const fn rss(mib: f64) -> Targets {
    Targets { rss_mib: Some(mib), ..NO_TARGETS }
}
const HUGE: u64 = 1_000_000;

/// In the order in which they are measured.
#[rustfmt::skip]
pub const CASES: &[Case] = &[
    goal("backlog-1-row", "transactions of 1 row, 500 B", Plan { targets: goals(12.0), ..PLAN }),
    goal("backlog-100-rows", "transactions of 100 rows, 500 B", Plan { shape: Shape { rows: 100, ..SHAPE }, targets: goals(8.0), ..PLAN }),
    other("backlog-100000-rows", "transactions of 100,000 rows, 500 B", Plan { shape: Shape { rows: 100_000, ..SHAPE }, ..PLAN }),
    other("payload-200", "200 B", Plan { shape: Shape { payload: 200, ..SHAPE }, ..PLAN }),
    other("payload-1k", "1 KiB", Plan { shape: Shape { payload: 1 << 10, ..SHAPE }, ..PLAN }),
    other("payload-16k", "16 KiB", Plan { shape: Shape { payload: 16 << 10, ..SHAPE }, ..PLAN }),
    other("classic-queue", "classic queue, 500 B", Plan { queue_type: QueueType::Classic, ..PLAN }),
    other("far-1-row", "a broker 20 ms away, 500 B", Plan { is_far: FAR, ..PLAN }),
    other("far-100-rows", "a broker 20 ms away, transactions of 100 rows, 500 B", Plan { shape: Shape { rows: 100, ..SHAPE }, is_far: FAR, ..PLAN }),
    killed("killed-quorum", "kill -9 in a backlog into a quorum queue: repeats", PLAN),
    killed("killed-classic", "the same into a classic queue", Plan { queue_type: QueueType::Classic, ..PLAN }),
    killed("killed-100-rows", "the same with transactions of 100 rows", Plan { shape: Shape { rows: 100, ..SHAPE }, ..PLAN }),
    killed("killed-far", "the same, and the broker is 20 ms away", Plan { is_far: FAR, ..PLAN }),
    other("audit-side-table", "audit.mode side_table, 500 B", Plan { audit: "side_table", ..PLAN }),
    other("audit-delete", "audit.mode delete, 500 B", Plan { audit: "delete", ..PLAN }),
    other("audit-none", "audit.mode none, 500 B", Plan { audit: "none", ..PLAN }),
    other("aggregates-10", "10 aggregates, 500 B", Plan { shape: Shape { aggregates: 10, ..SHAPE }, ..PLAN }),
    other("aggregates-100000", "100,000 aggregates, 500 B", Plan { shape: Shape { aggregates: 100_000, ..SHAPE }, ..PLAN }),
    other("strict-10", "strict order, 10 aggregates, 500 B", Plan { shape: Shape { aggregates: 10, ..SHAPE }, settings: STRICT, ..PLAN }),
    other("strict-100000", "strict order, 100,000 aggregates, 500 B", Plan { shape: Shape { aggregates: 100_000, ..SHAPE }, settings: STRICT, ..PLAN }),
    stream("stream-1-row", "into a stream, transactions of 1 row, 500 B", Plan { targets: stream_goals(3.0, 6.0), ..PLAN }),
    stream("stream-100-rows", "into a stream, transactions of 100 rows, 500 B", Plan { shape: Shape { rows: 100, ..SHAPE }, targets: stream_goals(5.0, 3.0), ..PLAN }),
    steady("steady-200", "200 events/s, 500 B, commit to consumer", 200, None),
    steady("steady-2000", "2,000 events/s, 500 B, commit to consumer", 2_000, None),
    Case { name: "stream-steady-200", about: "200 events/s, commit to a stream's consumer", is_quick: false, kind: Kind::Steady { rate: 200, is_stream: true, confirms_slowed: None } },
    Case { name: "stream-steady-2000", about: "2,000 events/s, commit to a stream's consumer", is_quick: false, kind: Kind::Steady { rate: 2_000, is_stream: true, confirms_slowed: None } },
    steady("slow-confirms", "200 events/s, confirms 20 ms later", 200, Some(Duration::from_millis(20))),
    big("memory-transaction", "one transaction of 1,000,000 rows, 500 B", HUGE, Plan { shape: Shape { rows: HUGE, ..SHAPE }, targets: rss(32.0), ..PLAN }),
    big("memory-1-mib", "1,000 payloads of 1 MiB, window of 32 MiB", 1_000, Plan { shape: Shape { payload: 1 << 20, ..SHAPE }, targets: rss(96.0), ..PLAN }),
    Case { name: "flat-backlog", about: "10,000 waiting events against 5,000,000, 500 B", is_quick: false, kind: Kind::FlatBacklog { events: 5 * HUGE } },
    Case { name: "flat-table", about: "empty table against 10,000,000 relayed rows", is_quick: false, kind: Kind::FlatTable { rows: 10 * HUGE } },
    Case { name: "idle", about: "nothing to do, for two minutes", is_quick: false, kind: Kind::Idle { seconds: 120 } },
    Case { name: "broker-down", about: "three minutes without a broker, 200 events/s", is_quick: false, kind: Kind::Outage { rate: 200, seconds: 180 } },
];
/// How far away a broker is that is far away.
const FAR: Option<Duration> = Some(Duration::from_millis(20));
const STRICT: &[&str] = &["window.ordering=strict"];

/// Held against the targets: all ceilings, five pairs.
const fn goal(name: &'static str, about: &'static str, plan: Plan) -> Case {
    let plan = Plan { ceilings: ALL, beside_none: true, ..plan };
    Case { name, about, is_quick: true, kind: Kind::Compared { plan, pairs: 5 } }
}

/// Into a stream, beside who only reads and beside a queue.
const fn stream(name: &'static str, about: &'static str, plan: Plan) -> Case {
    let plan = Plan {
        queue_type: QueueType::Stream,
        ceilings: &[Ceiling::Read],
        beside_none: true,
        beside_queue: true,
        ..plan
    };
    Case { name, about, is_quick: false, kind: Kind::Compared { plan, pairs: 5 } }
}

/// One of the other dimensions, beside its true ceiling.
const fn other(name: &'static str, about: &'static str, plan: Plan) -> Case {
    Case { name, about, is_quick: false, kind: Kind::Compared { plan, pairs: 3 } }
}

const fn killed(name: &'static str, about: &'static str, plan: Plan) -> Case {
    Case { name, about, is_quick: false, kind: Kind::Killed { plan } }
}

const fn steady(
    name: &'static str,
    about: &'static str,
    rate: u64,
    confirms_slowed: Option<Duration>,
) -> Case {
    let is_quick = rate == 200 && confirms_slowed.is_none();
    let kind = Kind::Steady { rate, is_stream: false, confirms_slowed };
    Case { name, about, is_quick, kind }
}

const fn big(name: &'static str, about: &'static str, events: u64, plan: Plan) -> Case {
    let plan = Plan { ceilings: &[], ..plan };
    Case { name, about, is_quick: false, kind: Kind::Big { plan, events } }
}

/// Bytes of payloads of a compared backlog: large ones are fewer.
const MOST_BYTES: u64 = 256 << 20;

impl Case {
    pub async fn measure(&self, servers: &mut Servers, arguments: &Arguments) -> Result<Outcome> {
        match &self.kind {
            Kind::Compared { plan, pairs } => {
                let most = MOST_BYTES / plan.shape.payload as u64;
                let (events, pairs) = (arguments.events().min(most), arguments.pairs(*pairs));
                drain::run(servers, &Plan { events, pairs, ..plan.clone() }).await
            }
            Kind::Killed { plan } => {
                let (events, pairs) = (arguments.events().min(20_000), arguments.pairs(20));
                kills::run(servers, &Plan { events, pairs, ..plan.clone() }).await
            }
            Kind::FlatBacklog { events } => {
                let plan = Plan { ceilings: &[], pairs: arguments.pairs(10), ..PLAN };
                flat::backlog(servers, &plan, arguments.scaled(*events), 32.0).await
            }
            Kind::FlatTable { rows } => {
                let (events, pairs) = (arguments.events(), arguments.pairs(5));
                let plan = Plan { ceilings: &[], events, pairs, ..PLAN };
                flat::table(servers, &plan, arguments.scaled(*rows)).await
            }
            Kind::Idle { seconds } => idle::run(servers, arguments.scaled(*seconds).max(5)).await,
            Kind::Outage { rate, seconds } => {
                let (rate, payload) = (*rate, SHAPE.payload);
                let seconds = arguments.scaled(*seconds).max(5);
                outage::run(servers, &outage::Plan { rate, payload, seconds }).await
            }
            Kind::Steady { rate, is_stream, confirms_slowed } => {
                let plan = steady::Plan {
                    rate: *rate,
                    payload: SHAPE.payload,
                    seconds: arguments.seconds(),
                    pairs: arguments.pairs(5),
                    is_stream: *is_stream,
                    confirms_slowed: *confirms_slowed,
                };
                steady::run(servers, &plan).await
            }
            Kind::Big { plan, events } => {
                let events = arguments.scaled(*events);
                // A single transaction stays a single one.
                let rows = plan.shape.rows.min(events);
                let shape = Shape { rows, ..plan.shape };
                drain::run(servers, &Plan { events, shape, ..plan.clone() }).await
            }
        }
    }
}

pub fn chosen(arguments: &Arguments) -> Vec<&'static Case> {
    let is_all = !arguments.quick || arguments.names_some();
    let cases = CASES.iter().filter(|case| is_all || case.is_quick);
    let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    cases.filter(|case| arguments.wants(case.name, &names)).collect()
}

pub fn list() {
    for case in CASES {
        let quick = if case.is_quick { "quick" } else { "" };
        println!("{:<22} {quick:<6} {}", case.name, case.about);
    }
}
