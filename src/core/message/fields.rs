//! An AMQP table, its fields written straight into the bytes of a message.

use smallvec::SmallVec;

use super::short;
use crate::core::event::Refusal;

/// Types of values, as RabbitMQ knows them: its errata to AMQP 0-9-1, section 3.
pub(super) mod kind {
    pub(in crate::core::message) const VOID: u8 = b'V';
    pub(in crate::core::message) const BOOLEAN: u8 = b't';
    pub(in crate::core::message) const LONG_LONG_INT: u8 = b'l';
    pub(in crate::core::message) const DOUBLE: u8 = b'd';
    pub(in crate::core::message) const LONG_STRING: u8 = b'S';
    pub(in crate::core::message) const ARRAY: u8 = b'A';
    pub(in crate::core::message) const TABLE: u8 = b'F';
}

/// As many fields as most tables have: those need no memory of their own.
const FEW: usize = 16;
/// A length before what it is the length of.
const LENGTH_BYTES: usize = 4;

/// A table that is being written: for each field its name, then its value.
pub(super) struct Fields<'a> {
    out: &'a mut Vec<u8>,
    length: Length,
    /// Where each field starts.
    starts: SmallVec<[usize; FEW]>,
}

impl<'a> Fields<'a> {
    pub(super) fn open(out: &'a mut Vec<u8>) -> Self {
        let length = Length::open(out);
        Self { out, length, starts: SmallVec::new() }
    }

    /// Starts a field. Its value is to be written into what is returned.
    pub(super) fn name(&mut self, name: &str) -> Result<&mut Vec<u8>, Refusal> {
        self.starts.push(self.out.len());
        short(self.out, "header name", name)?;
        Ok(self.out)
    }

    /// Where the value of the field that was started belongs.
    pub(super) fn value(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Writes a field that is a text.
    pub(super) fn text(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        text(self.name(name)?, value)
    }

    /// Ends a table no two fields of which have the same name.
    pub(super) fn close(self) -> Result<(), Refusal> {
        self.length.close(self.out)
    }

    /// Ends a table in which of fields with the same name the last one counts. Clients differ
    /// in which one they would take.
    pub(super) fn close_without_repeats(mut self) -> Result<(), Refusal> {
        let repeated = self.repeated();
        if !repeated.is_empty() {
            self.take_out(&repeated);
        }
        self.close()
    }

    /// Where the fields start after which one with the same name comes, from front to back.
    fn repeated(&self) -> SmallVec<[usize; FEW]> {
        let mut by_name = self.starts.clone();
        by_name.sort_unstable_by_key(|start| (self.name_at(*start), *start));
        let mut repeated = SmallVec::new();
        for (field, next) in by_name.iter().zip(by_name.iter().skip(1)) {
            if self.name_at(*field) == self.name_at(*next) {
                repeated.push(*field);
            }
        }
        repeated.sort_unstable();
        repeated
    }

    /// The name of the field that was started last, where there is one.
    pub(super) fn last_name(&self) -> Option<String> {
        let start = self.starts.last()?;
        Some(String::from_utf8_lossy(self.name_at(*start)).into_owned())
    }

    /// How far it is written.
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.out.len(), self.starts.len())
    }

    /// Takes back what was written since.
    pub(super) fn rewind(&mut self, (bytes, fields): (usize, usize)) {
        self.out.truncate(bytes);
        self.starts.truncate(fields);
    }

    fn name_at(&self, start: usize) -> &[u8] {
        let (length, rest) =
            self.out.get(start..).unwrap_or_default().split_first().unwrap_or((&0, &[]));
        rest.get(..usize::from(*length)).unwrap_or_default()
    }

    /// Takes out the fields that start there, all in one pass: there may be very many.
    fn take_out(&mut self, repeated: &[usize]) {
        let ends = self.starts.iter().skip(1).copied().chain([self.out.len()]);
        let mut to = self.starts.first().copied().unwrap_or_default();
        for (start, end) in self.starts.iter().copied().zip(ends) {
            if repeated.binary_search(&start).is_err() {
                self.out.copy_within(start..end, to);
                to += end - start;
            }
        }
        self.out.truncate(to);
    }
}

/// Writes a value that is a text.
pub(super) fn text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Refusal> {
    out.push(kind::LONG_STRING);
    let length = Length::open(out);
    out.extend_from_slice(text);
    length.close(out)
}

/// Writes a value that is a number.
pub(super) fn integer(out: &mut Vec<u8>, value: i64) {
    out.push(kind::LONG_LONG_INT);
    out.extend_from_slice(&value.to_be_bytes());
}

/// The place of a length that is known once all of it is written.
pub(super) struct Length {
    at: usize,
}

impl Length {
    pub(super) fn open(out: &mut Vec<u8>) -> Self {
        let at = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        Self { at }
    }

    pub(super) fn close(self, out: &mut [u8]) -> Result<(), Refusal> {
        let start = self.at + LENGTH_BYTES;
        let bytes = out.len() - start;
        let too_large = |_| Refusal::HeadersTooLarge { bytes, limit: u32::MAX as usize };
        let length = u32::try_from(bytes).map_err(too_large)?;
        if let Some(place) = out.get_mut(self.at..start) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use amq_protocol::types::AMQPValue;
    use amq_protocol::types::parsing::parse_field_table;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn of_fields_with_the_same_name_the_last_one_counts(
            fields in prop::collection::vec(("[a-d]{0,2}", any::<i64>()), 0..40),
        ) {
            let mut out = b"before".to_vec();
            let mut table = Fields::open(&mut out);
            for (name, value) in &fields {
                integer(table.name(name).unwrap(), *value);
            }
            table.close_without_repeats().unwrap();
            let (rest, read) = parse_field_table(&out[6..]).unwrap();
            prop_assert!(rest.is_empty());
            let expected: BTreeMap<String, AMQPValue> = fields
                .into_iter()
                .map(|(name, value)| (name, AMQPValue::LongLongInt(value)))
                .collect();
            let read: BTreeMap<String, AMQPValue> = read
                .inner()
                .iter()
                .map(|(name, value)| (name.to_string(), value.clone()))
                .collect();
            prop_assert_eq!(&read, &expected);
            // The library's reader would take a repeat too: nothing but these is there.
            let bytes: usize = expected.keys().map(|name| 1 + name.len() + 9).sum();
            prop_assert_eq!(out.len(), 6 + LENGTH_BYTES + bytes);
        }
    }
}
