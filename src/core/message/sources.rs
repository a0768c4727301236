//! What a message is made of.

use std::borrow::Cow;

use crate::config::{Property, Table};
use crate::core::event::pattern::MessagePatterns;
use crate::core::event::pgoutput::Cell;
use crate::core::event::relation::Mapping;
use crate::core::event::{Event, Position, Refusal, Row};

/// What properties are made of.
#[derive(Clone, Copy)]
pub(super) struct PropertySources<'a> {
    pub(super) event: &'a Event<'a>,
    pub(super) row: Row<'a>,
    pub(super) position: Position,
    pub(super) mapping: &'a Mapping,
    pub(super) table: &'a Table,
}

impl<'a> PropertySources<'a> {
    pub(super) fn patterns(&self) -> Option<&'a MessagePatterns> {
        self.mapping.message.as_deref()
    }

    /// What the template of a property makes, or else what the columns say.
    pub(super) fn text(
        &self,
        property: Property,
        otherwise: Option<&'a str>,
    ) -> Result<Option<Cow<'a, str>>, Refusal> {
        let patterns = self.patterns().map(|patterns| patterns.properties.as_slice());
        match patterns.unwrap_or_default().iter().find(|(it, _)| *it == property) {
            Some((_, pattern)) => pattern.text(property.name(), self.row),
            None => Ok(otherwise.map(Cow::Borrowed)),
        }
    }

    /// The media type of the payload.
    pub(super) fn content_type(&self) -> Result<Option<Cow<'a, str>>, Refusal> {
        let otherwise = self.event.content_type.unwrap_or(&self.table.content_type);
        self.text(Property::ContentType, Some(otherwise))
    }

    /// Whether the row has no payload at all.
    pub(super) fn is_null_payload(&self) -> bool {
        let is_absent = !self.mapping.payload_names.is_empty() && self.event.payload.is_empty();
        is_absent || self.row.cells.get(self.mapping.payload).is_none_or(|cell| *cell == Cell::Null)
    }

    pub(super) fn is_structured(&self) -> bool {
        let events = self.patterns().and_then(|patterns| patterns.cloudevents.as_ref());
        events.is_some_and(|events| events.is_structured)
    }
}
