//! The message of a row that came another way than the stream: the same path as the relay's.

use amq_protocol::types::FieldTable;

use crate::config::{Config, Table};
use crate::core::event::envelope;
use crate::core::event::pgoutput::{Cell, Column, StoredRow, Tuple};
use crate::core::event::relation::Mapping;
use crate::core::event::{Event, Position, Refusal, Row};
use crate::core::message::{Limits, Message};

/// Reads rows of one shape of one table.
pub(crate) struct Reader<'a> {
    table: &'a Table,
    mapping: Mapping,
    cells: Vec<Cell>,
}

/// An event and its message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredMessage {
    /// Its id.
    pub id: String,
    /// Its message.
    pub message: Message,
}

impl<'a> Reader<'a> {
    /// Finds the fields among the columns; `number` is the table's among those configured.
    ///
    /// # Errors
    /// Every field that is missing or of a wrong type, one line each.
    pub(crate) fn new(
        number: usize,
        table: &'a Table,
        columns: &[Column],
    ) -> Result<Self, Vec<String>> {
        Self::of_row(number, table, columns, &[])
    }

    fn of_row(
        number: usize,
        table: &'a Table,
        columns: &[Column],
        today: &[Column],
    ) -> Result<Self, Vec<String>> {
        let mapping = Mapping::of_row(number, table, columns, today)?;
        Ok(Self { table, mapping, cells: Vec::new() })
    }

    /// Builds the message of a row.
    ///
    /// # Errors
    /// The row cannot be read, or its message is one that AMQP or the broker cannot take.
    pub(crate) fn build(
        &mut self,
        tuple: &Tuple,
        commit_time: i64,
        position: Position,
        limits: Limits,
    ) -> Result<StoredMessage, Refusal> {
        let unreadable = |why: String| Refusal::unreadable("row", why);
        self.mapping.read(tuple, &mut self.cells).map_err(unreadable)?;
        let row = Row { tuple, cells: &self.cells };
        let event = Event::read(&self.mapping, row, commit_time, limits.body)?;
        let message = Message::build(&event, row, position, &self.mapping, self.table, limits)?;
        Ok(StoredMessage { id: event.id.to_owned(), message })
    }
}

/// Builds the message of a row that brings its own columns; its table has those of `today`.
///
/// # Errors
/// The table has no mapping, or the row cannot be read or sent.
pub(crate) fn build(
    config: &Config,
    row: &StoredRow,
    position: Position,
    limits: Limits,
    today: &[Column],
) -> Result<StoredMessage, Refusal> {
    let table = config
        .source(row.table)
        .ok_or_else(|| Refusal::unreadable("table", "it is not among those configured"))?;
    let row = &envelope::renewed(row.clone());
    let mut reader = Reader::of_row(row.table, table, &row.columns, today)
        .map_err(|errors| Refusal::Former { why: errors.join("; ") })?;
    reader.build(&row.tuple, row.commit_time, position, limits)
}

/// The headers of a message.
pub(crate) fn headers(message: &Message) -> FieldTable {
    message.properties().headers().clone().unwrap_or_default()
}
