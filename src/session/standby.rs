//! Takes the slot, and waits as a standby while another has it.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{info, warn};

use super::audit::answered;
use super::past::Past;
use super::progress_row::record_fault;
use crate::backoff::Backoff;
use crate::board::outage::News;
use crate::board::{Board, RelayState};
use crate::config::Config;
use crate::core::relay::End;
use crate::error::{Fault, Kind, Side, codes};
use crate::postgres::identity::Identity;
use crate::postgres::sql;
use crate::postgres::{column, query};
use crate::rabbitmq::publisher::{Closure, Signal};
use crate::rabbitmq::sink::Sink;
use crate::slot::{self, SlotUser};
use crate::text::span;
use crate::wal::{Wal, WalStream};

/// A standby looks after the slot this often, or up to twice as often.
pub(super) const STANDBY_POLL: Backoff =
    Backoff::new(Duration::from_millis(800), Duration::from_millis(800));

/// Who has the slot is no other relay, so nobody delivers: another program, or our own previous walsender, of
/// which the server has not noticed yet that we are gone, or which hangs.
fn no_relay(config: &Config, past: &Past, user: &SlotUser) -> Option<Fault> {
    let pid = user.pid;
    if past.walsender != Some(pid) {
        return user.fault(config);
    }
    let limit = span(config.postgres.wal_sender_timeout);
    let what = format!(
        "our own previous connection (walsender pid {pid}) still holds slot \"{}\": Postgres ends it after wal_sender_timeout ({limit}), unless it hangs",
        config.postgres.slot
    );
    let hint = format!("SELECT pg_terminate_backend({pid});  -- or wait for {limit}");
    Some(Fault::transient(what).on(Side::Stream).hint(hint))
}

/// Whether an earlier session came to a place in the middle of a transaction, and counted messages to
/// tell it: so they are counted until it is passed, though none is configured any more.
async fn counts_messages(config: &Config, past: &Past, client: &Client) -> Result<bool, Fault> {
    let slot = ("slot", config.postgres.slot.as_str());
    let asked = sql::render(sql::PROGRESS_COUNTS_MESSAGES, &[slot])?;
    let rows = answered(config, query(client, &asked)).await?;
    let row = rows.first().map_or(Ok(false), |row| column(row, "counts_messages"))?;
    let remembered = past.memory.as_ref();
    Ok(row || remembered.is_some_and(|it| it.has_messages && it.memory.delivered.index > 0))
}

/// Who has the slot, once the server would have noticed the end of an earlier process of ours.
const ANOTHER: &str = "another relay holds the slot";

/// Who has the slot: a process that was killed, or whose machine is gone, holds it for a while too.
fn holder(fault: &Fault, is_sure: bool) -> String {
    match is_sure {
        true => ANOTHER.to_owned(),
        false => format!(
            "another relay holds the slot, or an earlier process whose end the server has not noticed yet: {}",
            fault.what
        ),
    }
}

/// The slot, and what was heard meanwhile.
pub(super) struct SlotLease {
    pub(super) wal: WalStream,
    pub(super) identity: Identity,
    /// The stream has messages, and so their places count.
    pub(super) has_messages: bool,
    /// Why the broker blocks the connection, where it does.
    pub(super) blocked: Option<String>,
}

/// Waits for the slot, as its standby where another holds it, and takes it. That may take weeks,
/// and a standby is to be able to publish at once: it hears of the broker all that time, and ends
/// with that connection like a session that runs.
pub(super) async fn take_slot(
    config: &Config,
    past: &mut Past,
    client: &Client,
    board: &Board,
    publisher: &mut Sink,
) -> Result<SlotLease, Fault> {
    let mut taking = pin!(take(config, past, client, board));
    let mut blocked = None;
    loop {
        let signal = tokio::select! {
            biased;
            signal = publisher.next() => signal,
            taken = &mut taking => {
                let (wal, identity, has_messages) = taken?;
                return Ok(SlotLease { wal, identity, has_messages, blocked });
            }
        };
        match signal {
            Ok(Signal::Blocked(why)) => blocked = why,
            // Nothing was published.
            Ok(Signal::Answers(_) | Signal::Reopened) => {}
            Err(Closure::Dropped(fault) | Closure::Lost(fault)) => {
                return Err(fault.on(Side::Broker));
            }
            Err(Closure::Refused(why) | Closure::RefusedOnChannel(why, _)) => {
                let what = format!("RabbitMQ closed the channel: {why}");
                return Err(Fault::transient(what).on(Side::Broker));
            }
        }
    }
}

/// Says once what keeps the slot from us.
async fn hinder(config: &Config, past: &mut Past, board: &Board, client: &Client, fault: Fault) {
    if board.hinder(&fault) == News::None {
        return;
    }
    warn!(cause = slot::cause(&fault), hint = fault.hint, "{}", fault.what);
    record_fault(config, past, board, client, &End::Fault(fault)).await;
}

async fn take(
    config: &Config,
    past: &mut Past,
    client: &Client,
    board: &Board,
) -> Result<(WalStream, Identity, bool), Fault> {
    let postgres = &config.postgres;
    let began = Instant::now();
    let mut is_standby = false;
    let unnoticed = postgres.wal_sender_timeout;
    let mut is_sure = false;
    loop {
        let connected = Wal::connect(postgres).await;
        let (wal, identity) = connected.map_err(|fault| fault.on(Side::Stream))?;
        let has_messages =
            !config.messages.is_empty() || counts_messages(config, past, client).await?;
        let user = match wal.start(has_messages, postgres.connect_timeout).await {
            Ok(stream) => return Ok((stream, identity, has_messages)),
            Err(fault) if fault.is_code(codes::OBJECT_IN_USE) => {
                let user = answered(config, slot::user(client, &postgres.slot)).await?;
                let is_own = user.as_ref().is_some_and(|user| past.walsender == Some(user.pid));
                if postgres.shards.is_any && !is_own {
                    let what = format!("somebody else reads slot \"{}\"", postgres.slot);
                    return Err(Fault::transient(what).kind(Kind::ShardTaken));
                }
                match user.as_ref().and_then(|user| no_relay(config, past, user)) {
                    Some(fault) => {
                        if std::mem::take(&mut is_standby) {
                            board.enter(RelayState::Connecting, &fault.what);
                        }
                        hinder(config, past, board, client, fault).await;
                    }
                    None if !std::mem::replace(&mut is_standby, true) => {
                        board.enter(
                            RelayState::Standby,
                            holder(&fault, began.elapsed() >= unnoticed),
                        );
                        // It is that one's events: our own failures do not keep them.
                        board.recover();
                        info!(
                            slot = postgres.slot,
                            why = fault.what,
                            "standby: the slot is held by another relay"
                        );
                    }
                    None => {}
                }
                user
            }
            Err(fault) => return Err(fault.on(Side::Stream)),
        };
        let holder = user.map(|user| user.pid);
        // Asking costs the server less than a connection for each try.
        loop {
            tokio::time::sleep(STANDBY_POLL.spread(1, fastrand::u16(..))).await;
            // A standby does nothing but stand.
            if is_standby && !is_sure && began.elapsed() >= unnoticed {
                is_sure = true;
                board.enter(RelayState::Standby, ANOTHER);
            }
            past.brought_on |= began.elapsed() >= config.session.backoff_max;
            let state = answered(config, slot::state(client, &postgres.slot)).await?;
            // Another one may be no relay.
            let is_same = |pid| holder.is_none_or(|holder| pid == Some(holder));
            if !state.is_some_and(|slot| slot.is_active && is_same(slot.active_pid)) {
                break;
            }
        }
    }
}
