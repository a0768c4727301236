//! A relay that is to have any share of an outbox that is spread takes one that nobody has, and waits where each
//! has its relay.
//!
//! A share is free where nobody reads its slot. Two relays may see the same one: who comes late to the slot looks for
//! another. So there is nothing to be kept, or to be given back, beside the slots.

use tokio::time::sleep;
use tracing::info;

use super::standby::STANDBY_POLL;
use super::supervisor;
use crate::backoff::Backoff;
use crate::board::{Board, RelayState};
use crate::config::{Config, Share};
use crate::error::{Class, Fault, Side};
use crate::postgres::sql;
use crate::postgres::{self, Role, column, query};
use crate::shutdown::Shutdown;

/// The configuration of a share that nobody has; `None` where it was asked to stop meanwhile.
///
/// # Errors
/// What a setting is wrong with: whatever may pass by itself is waited out.
pub(crate) async fn choose(
    config: &Config,
    shutdown: &mut Shutdown,
    board: &Board,
) -> Result<Option<Config>, Fault> {
    if !config.is_of_any_share() {
        return Ok(Some(config.clone()));
    }
    let backoff = Backoff::new(config.session.backoff_min, config.session.backoff_max);
    let mut failures = 0;
    loop {
        let chosen = tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(None),
            chosen = free(config, board) => chosen.map_err(|fault| fault.on(Side::Audit)),
        };
        let pause = match chosen {
            Ok(share) => {
                info!(
                    shard = share.number,
                    of = share.of,
                    "this relay takes a shard that nobody has"
                );
                return Ok(Some(config.of_share(Some(share))));
            }
            Err(fault) if matches!(fault.class, Class::Halt | Class::Usage) => {
                board.stop(&fault);
                return Err(fault);
            }
            Err(fault) => {
                failures += 1;
                let pause = backoff.spread(failures, fastrand::u16(..));
                let news = board.wait(&fault, pause);
                supervisor::log(&fault, news, pause, board);
                pause
            }
        };
        tokio::select! {
            biased;
            () = shutdown.wait() => return Ok(None),
            () = sleep(pause) => {}
        }
    }
}

/// Waits until nobody has one of the shares, on one connection.
async fn free(config: &Config, board: &Board) -> Result<Share, Fault> {
    let (client, _driver) = postgres::connect(Role::Command, &config.postgres).await?;
    let slots = serde_json::json!(config.postgres.shards.slots()).to_string();
    let asked = sql::render(sql::SHARDS_FREE, &[("slots", &slots)])?;
    let mut is_standby = false;
    loop {
        let rows = query(&client, &asked).await?;
        let free: Vec<i32> =
            rows.iter().map(|row| column(row, "number")).collect::<Result<_, _>>()?;
        // Relays that look together should not choose together.
        let at = fastrand::usize(..free.len().max(1));
        if let Some(number) = free.get(at).and_then(|number| u16::try_from(*number).ok()) {
            return Ok(Share { number, of: config.postgres.shards.of });
        }
        if !std::mem::replace(&mut is_standby, true) {
            board.enter(RelayState::Standby, "each shard has its relay");
            board.recover();
            info!(shards = config.postgres.shards.of, "standby: each shard has its relay");
        }
        sleep(STANDBY_POLL.spread(1, fastrand::u16(..))).await;
    }
}
