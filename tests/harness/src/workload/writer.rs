//! One writer: transactions until enough, over as many connections as it takes.

use std::time::Duration;

use anyhow::Result;
use tokio_postgres::error::SqlState;

use super::Shared;
use super::transaction::{Kind, Session, Transaction};
use crate::postgres::connect;
use crate::wait::retry;

pub(super) async fn write(url: String, shared: &Shared) -> Result<()> {
    while !shared.is_over() {
        let client =
            retry("Postgres to let a writer in", Duration::from_secs(60), || connect(&url)).await?;
        let session = match Session::new(client, &shared.options).await {
            Ok(session) => session,
            Err(error) if is_lost(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        while shared.begin() {
            let mut doing = Transaction::default();
            match session.run(Kind::draw(shared.options.mix), &mut doing).await {
                Ok(()) => doing.settle(&mut shared.ledger()),
                Err(error) => {
                    let lost =
                        error.downcast_ref().is_some_and(is_lost) || session.client.is_closed();
                    doing.lose(&mut shared.ledger());
                    if lost {
                        break;
                    }
                    return Err(error);
                }
            }
            pause(shared.options.pause).await;
        }
    }
    Ok(())
}

/// The connection's end, not the statement's fault.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    let codes = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        // Nobody's fault either, and over once there is room.
        SqlState::DISK_FULL,
    ];
    error.is_closed() || error.code().is_none_or(|code| codes.contains(code))
}

/// Load, not synchronisation.
async fn pause(mean: Duration) {
    if !mean.is_zero() {
        tokio::time::sleep(mean.mul_f64(0.5 + fastrand::f64())).await;
    }
}
