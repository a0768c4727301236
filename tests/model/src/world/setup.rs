//! Which things happen in a round, and how the relay is configured.

use super::*;
use crate::defaults;
use std::collections::BTreeSet;

/// Which things happen in this round, and how often: not everything in each.
pub(super) fn weights(script: &Script, largest_transaction: u64, mode: Mode) -> Vec<(u32, Act)> {
    let commits = if largest_transaction > 20 { 15 } else { 60 };
    // Rounds that are all about returns and nacks, and others that hardly have any.
    // A stream refuses nothing.
    let is_all_of_streams = mode.is_stream && !mode.is_mixed;
    let refusals = if is_all_of_streams { 0 } else { script.pick(&[0, 2, 12, 30]) };
    let mut weights = vec![
        (commits, Act::Commit),
        (20, Act::Noise),
        (15, Act::Flush),
        (60, Act::Send),
        (20, Act::KeepAlive),
        (90, Act::Read),
        (60, Act::Process),
        (50, Act::Confirm),
        (10, Act::Haunt),
        (80, Act::Look),
        (30, Act::Burst),
        (60, Act::Execute),
        (60, Act::Answer),
        (30, Act::DeliverAck),
        (60, Act::Wait),
        (3 + refusals / 2, Act::RepairBroker),
        (refusals, Act::Unbind),
        (refusals / 2, Act::Refuse),
        (refusals / 2, Act::DropExchange),
    ];
    let seldom = [
        (6, Act::DeleteRow),
        (6, Act::LockRow),
        (6, Act::RefuseMark),
        (1, Act::CloseTable),
        (5, Act::Checkpoint),
        (5, Act::WaitLong),
        (3, Act::LowerLimit),
        (4, Act::Block),
        (4, Act::CutBroker),
        (3, Act::CutPostgres),
        (3, Act::Crash),
        (3, Act::Restart),
        (1, Act::BreakPublication),
        (2, Act::Storm),
        (3, Act::Drain),
        (5, Act::Kill),
    ];
    if mode.is_stream && script.one_in(2) {
        weights.extend([(6, Act::Copy), (3, Act::Restore)]);
    }
    for (weight, act) in seldom {
        // A stream does not say that it takes nothing.
        let is_possible = !(is_all_of_streams && matches!(act, Act::Block));
        if script.one_in(3) && is_possible {
            weights.push((weight, act));
        }
    }
    if mode.is_parking {
        weights.push((3, Act::Notify));
        if script.one_in(2) {
            weights.extend([(script.pick(&[3, 12]), Act::Discard), (1, Act::Replay)]);
        }
        if script.one_in(2) {
            weights.push((script.pick(&[3, 12]), Act::Retry));
        }
    }
    if script.one_in(3) {
        weights.extend([(1, Act::Pause), (6, Act::Resume)]);
    }
    if mode.has_letters {
        weights.push((refusals / 3, Act::UnbindDead));
    }
    if weights.iter().any(|(_, act)| matches!(act, Act::Block)) {
        weights.push((8, Act::Unblock));
    }
    weights
}

pub(super) fn mode(script: &Script, sinks: Sinks) -> Mode {
    let (is_stream, is_mixed) = (sinks != Sinks::Exchange, sinks == Sinks::Both);
    let is_exchange = sinks != Sinks::Stream;
    let is_parking = script.one_in(2);
    Mode {
        is_parking,
        has_letters: is_parking && is_exchange && script.one_in(4),
        is_holding: !script.one_in(5),
        is_strict: is_parking && is_exchange && script.is_heads(),
        is_stream,
        is_mixed,
    }
}

pub(super) fn rules(script: &Script, marking: Marking, mode: Mode) -> Rules {
    let exchange = |table: Table| match table.is_message() {
        true => Template::parse("outbox"),
        false => Template::parse("{exchange} | outbox"),
    };
    let is_of_stream = |table: Table| mode.is_stream && (table == Table::Known || !mode.is_mixed);
    let tables: Vec<TableConfig> = [Table::Known, Table::Named, Table::Emitted]
        .map(|table| TableConfig {
            schema: if table.is_message() { String::new() } else { "public".to_owned() },
            name: table.name().to_owned(),
            exchange: exchange(table).expect("a template"),
            on_failure: match (mode.is_parking, mode.has_letters) {
                (false, _) => OnFailure::Block,
                (true, false) => OnFailure::Park,
                (true, true) if is_of_stream(table) => OnFailure::Park,
                (true, true) => {
                    OnFailure::DeadLetter { exchange: DEAD.to_owned(), routing_key: None }
                }
            },
            is_holding: mode.is_holding,
            audit_mode: match marking {
                _ if table.is_message() => AuditMode::None,
                Marking::Update => AuditMode::Update,
                Marking::Delete => AuditMode::Delete,
                Marking::SideTable => AuditMode::SideTable,
                Marking::None => AuditMode::None,
            },
            stream: is_of_stream(table).then(|| "events".into()),
            ..defaults::table()
        })
        .into();
    Rules {
        tables: tables.into(),
        oids: vec![Table::Known.oid(), 19_999],
        columns: Vec::new(),
        limits: Limits {
            body: 10_000,
            header_frame: 100_000,
            stream: mode.is_stream.then_some(1 << 20),
        },
        window_messages: script.pick(&[1, 2, 5, 20, 20]),
        is_window_fixed: false,
        window_bytes: script.pick(&[1, 200, 100_000, 100_000]),
        is_strict: mode.is_strict,
        parking: Parking {
            max_attempts: 1_000_000,
            backoff_min: Duration::from_millis(script.pick(&[10, 1_000])),
            backoff_max: Duration::from_millis(script.pick(&[1_000, 10_000])),
            limit: script.pick(&[1, 5, 1_000]),
            period: Duration::from_secs(script.pick(&[1, 60])),
            poll_interval: Duration::from_secs(10),
        },
        audit: Audit {
            batch: script.pick(&[1, 3, 10]),
            linger: Duration::from_millis(script.pick(&[0, 10, 50])),
            hold: Duration::from_millis(script.pick(&[0, 100, 2_000, 10_000])),
            give_up: Duration::from_secs(600),
        },
        confirm_timeout: Duration::from_secs(script.pick(&[2, 30])),
        blocked_timeout: Duration::from_secs(script.pick(&[5, 600])),
        check_interval: Duration::from_millis(script.pick(&[100, 1_000])),
        silence: Duration::from_secs(15),
        away: Vec::new(),
        leaves: vec![1],
        has_streams: mode.is_stream,
        passes_until: None,
        are_new: Vec::new(),
        were_read: BTreeSet::new(),
        share: None,
        former: Default::default(),
    }
}
