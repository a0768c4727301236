//! One at a time, of however many relays and commands: who prunes, reconciles or makes a slot.

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::config::Config;
use crate::error::Fault;
use crate::postgres::sql;
use crate::postgres::{self, Role, classify};

/// A turn that no other process has. It ends when this is dropped, and with the connection of its
/// own that it is held by: `sql/server/turn.sql` says why that is a transaction's.
pub(crate) struct Turn {
    client: Client,
}

impl Turn {
    /// Takes the turn at `what` for the configured slot; `None` where somebody else has it.
    pub(crate) async fn take(config: &Config, what: &'static str) -> Result<Option<Self>, Fault> {
        let postgres = &config.postgres;
        let (client, _driver) = postgres::connect(Role::Turn(what), postgres).await?;
        let turn = format!("pgoutbox {what} {}", postgres.slot);
        let sql = sql::render(sql::SERVER_TURN, &[("turn", &turn)])?;
        let answers = client.simple_query(&sql).await.map_err(|error| classify(&error))?;
        let is_ours = answers.iter().any(|answer| match answer {
            SimpleQueryMessage::Row(row) => {
                row.try_get("is_ours").is_ok_and(|value| value == Some("t"))
            }
            _ => false,
        });
        Ok(is_ours.then_some(Self { client }))
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
