//! A slot that is gone or lost, in the words of everybody who says so.

use tokio_postgres::Client;

use super::{GONE, ways_out};
use crate::config::Config;
use crate::postgres::query;
use crate::postgres::sql;

/// What a slot that is gone or lost means under a configuration, and what helps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loss {
    slot: String,
    /// Where it is gone, and where it is lost: set where the relay does not make a new one by itself.
    ways_out: Option<[String; 2]>,
}

impl Loss {
    /// Under this configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let ways_out = || [false, true].map(|is_there| ways_out(config, is_there));
        Self {
            slot: config.postgres.slot.clone(),
            ways_out: (!config.is_catching_up()).then(ways_out),
        }
    }

    /// That it is lost for this reason, or gone where there is none.
    pub(crate) fn what(&self, lost: Option<&str>) -> String {
        let slot = &self.slot;
        match lost {
            Some(reason) => format!(
                "slot \"{slot}\" is lost ({reason}); events committed since it last acknowledged are \
                 not in the stream any more"
            ),
            None => format!(
                "slot \"{slot}\" does not exist any more: {GONE}; events committed since are not in \
                 the stream"
            ),
        }
    }

    /// What makes a new one. A relay that runs does so by itself, unless it is paused.
    pub(crate) fn hint(&self, is_lost: bool, is_paused: bool) -> String {
        let by_itself = if is_paused { "pgoutbox resume" } else { "pgoutbox run" };
        let ways_out = self.ways_out.as_ref().map(|[gone, lost]| if is_lost { lost } else { gone });
        ways_out.map_or_else(|| by_itself.to_owned(), Clone::clone)
    }
}

/// Whether somebody has paused the relay. A schema of an earlier version says of nobody that he has.
pub(crate) async fn is_paused(client: &Client, config: &Config) -> bool {
    let Ok(sql) = sql::render(sql::PAUSE_STATE, &[("slot", &config.postgres.slot)]) else {
        return false;
    };
    query(client, &sql).await.is_ok_and(|rows| !rows.is_empty())
}
