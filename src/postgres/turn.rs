//! One at a time, of however many relays and commands: who prunes, reconciles, makes a slot, or all that `init` makes.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::config::Config;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{self, Role, classify};

/// How often one that is waited for is asked for again. A statement that waits in the server would have a snapshot,
/// and what the other makes, an index say, may wait for that to end.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A turn that no other process has. It ends when this is dropped, and with the connection of its
/// own that it is held by: `sql/server/turn.sql` says why that is a transaction's.
pub(crate) struct Turn {
    client: Client,
}

impl Turn {
    /// Takes the turn at `what` for the configured slot; `None` where somebody else has it.
    pub(crate) async fn take(config: &Config, what: &'static str) -> Result<Option<Self>, Fault> {
        let (client, _driver) = postgres::connect(Role::Turn(what), &config.postgres).await?;
        let turn = format!("pgoutbox {what} {}", config.postgres.slot);
        Ok(is_had(&client, &turn).await?.then_some(Self { client }))
    }

    /// Waits for the turn at `what` in the database, whatever the slot; `says` that it waits, if it does.
    pub(crate) async fn wait(
        config: &Config,
        what: &'static str,
        says: impl FnOnce(),
    ) -> Result<Self, Fault> {
        let (client, _driver) = postgres::connect(Role::Turn(what), &config.postgres).await?;
        let (turn, mut says) = (format!("pgoutbox {what}"), Some(says));
        while !is_had(&client, &turn).await? {
            if let Some(says) = says.take() {
                says();
            }
            client.batch_execute("ROLLBACK").await.map_err(|error| classify(&error))?;
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(Self { client })
    }

    /// Gives it back. Dropped, it lasts until the server has seen that the connection is gone, and who
    /// asks next may come before that.
    pub(crate) async fn end(self) {
        // Where this fails the connection has ended, and the turn with it.
        let _ = self.client.batch_execute("COMMIT").await;
    }

    /// Its connection has ended, so somebody else may have it by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed()
    }
}

/// Begins the transaction that has it; whether nobody else has.
async fn is_had(client: &Client, turn: &str) -> Result<bool, Fault> {
    let sql = sql::render(sql::SERVER_TURN, &[("turn", turn)])?;
    let answers = client.simple_query(&sql).await.map_err(|error| classify(&error))?;
    Ok(answers.iter().any(|answer| match answer {
        SimpleQueryMessage::Row(row) => {
            row.try_get("is_ours").is_ok_and(|value| value == Some("t"))
        }
        _ => false,
    }))
}
