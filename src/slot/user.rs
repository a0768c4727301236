//! Who reads the slot.

use tokio_postgres::Client;

use super::Finding;
use crate::config::Config;
use crate::error::{Fault, Side};
use crate::postgres::sql;
use crate::postgres::{column, query};

/// What it is called, in `check` and of a relay that waits for it.
const NAME: &str = "slot-in-use";

/// The session that reads the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotUser {
    pub(crate) pid: i32,
    /// Its `application_name`.
    name: String,
    role: String,
    address: String,
}

/// Who reads the slot; `None` where nobody does.
///
/// # Errors
/// The server cannot be asked.
pub(crate) async fn user(client: &Client, slot: &str) -> Result<Option<SlotUser>, Fault> {
    let rows = query(client, &sql::render(sql::CHECK_SLOT_USER, &[("slot", slot)])?).await?;
    let user = |row| {
        Ok::<_, Fault>(SlotUser {
            pid: column(row, "pid")?,
            name: column(row, "application_name")?,
            role: column(row, "role")?,
            address: column(row, "address")?,
        })
    };
    rows.first().map(user).transpose()
}

impl SlotUser {
    /// Whether it goes by the name of a relay: by ours, or by the one that relays have as shipped.
    fn is_relay(&self, config: &Config) -> bool {
        let own = &config.postgres.application_name;
        self.name == *own || self.name.starts_with("pgoutbox")
    }

    fn what(&self, config: &Config) -> String {
        let Self { pid, name, role, address } = self;
        format!(
            "slot \"{}\" is in use by \"{name}\" (role {role}, {address}, pid {pid}), which is no relay: nothing is \
             delivered, and the slot moves on with what that one acknowledges",
            config.postgres.slot
        )
    }

    fn hint(&self) -> String {
        format!(
            "SELECT pg_terminate_backend({});  -- or stop it at its source, otherwise it reconnects",
            self.pid
        )
    }

    /// Where it is no relay, the fault of one that waits for the slot.
    pub(crate) fn fault(&self, config: &Config) -> Option<Fault> {
        let fault = || Fault::transient(self.what(config)).on(Side::Stream).hint(self.hint());
        (!self.is_relay(config)).then(|| fault().found(Some(NAME)))
    }

    /// Likewise, for `check`.
    pub(crate) fn finding(&self, config: &Config) -> Option<Finding> {
        (!self.is_relay(config)).then(|| Finding::warning(NAME, self.what(config), self.hint()))
    }
}
