//! Ordinary Postgres connections, what their errors mean, and what is kept by them.
//!
//! **Invariant:** every connection comes from [`connect`], with its settings for each [`Role`] in one
//! list, and its SQL from [`sql`]. The replication protocol is not known here.

mod column_type;
mod connection;
pub(crate) mod content;
mod denial;
pub(crate) mod event_rows;
mod farewell;
pub(crate) mod grants;
pub(crate) mod hosts;
pub(crate) mod identity;
pub(crate) mod mark;
pub(crate) mod marker;
pub(crate) mod outbox;
pub(crate) mod outbox_table;
pub(crate) mod parking;
pub(crate) mod publication_filter;
pub(crate) mod share;
pub(crate) mod raising;
pub(crate) mod role;
pub(crate) mod row_range;
mod server_error;
pub(crate) mod sql;
pub(crate) mod turn;

use std::time::SystemTime;

use tokio_postgres::{Client, Row};

pub(crate) use column_type::ColumnType;
pub use connection::connect;
pub(crate) use connection::{LOG, STANDBY, connect_and_hear, socket_path, watch_over};
pub(crate) use denial::{Denial, address, not_in};
pub(crate) use farewell::say_goodbye;
pub use role::Role;
pub(crate) use server_error::{
    ServerError, classify, is_lock, is_of_row, is_of_shown_row, is_refused, no_answer,
    server_error, unreachable,
};

use crate::core::event::POSTGRES_EPOCH_MICROS;
use crate::error::{Fault, table};

/// Runs one query without parameters, in one round trip and without a named statement, so
/// that it also works through a transaction pooler.
///
/// # Errors
/// What the server says, or that the connection to it is lost, as [`classify`] has it: transient,
/// unless only a person can fix it.
pub async fn query(client: &Client, sql: &str) -> Result<Vec<Row>, Fault> {
    client.query_typed(sql, &[]).await.map_err(|error| classify(&error))
}

/// This machine's clock as Postgres counts: in microseconds since 2000-01-01 UTC.
pub(crate) fn now_micros() -> i64 {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX);
    micros.saturating_sub(POSTGRES_EPOCH_MICROS)
}

/// Runs statements that answer nothing of interest.
pub(crate) async fn execute(client: &Client, sql: &str) -> Result<(), Fault> {
    client.batch_execute(sql).await.map_err(|error| classify(&error))
}

/// A column of a row; one that the query does not have is a defect.
///
/// # Errors
/// The column is missing or of another type.
pub(crate) fn column<'a, T: postgres_types::FromSql<'a>>(
    row: &'a Row,
    name: &str,
) -> Result<T, Fault> {
    row.try_get(name)
        .map_err(|error| Fault::definite(format!("catalog query: {error}"), table::DEFECT))
}
