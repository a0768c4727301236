//! Messages that are events: which prefixes are, and how each is read.

use std::sync::Arc;

use bytes::Bytes;

use super::input::End;
use crate::config::Table;
use crate::core::event::envelope::{self, Shape};
use crate::core::event::pgoutput::Tuple;
use crate::core::event::relation::Mapping;
use crate::error::Fault;

/// The configured prefixes.
#[derive(Debug)]
pub(super) struct Messages(Vec<Prefix>);

#[derive(Debug)]
struct Prefix {
    text: Box<[u8]>,
    /// Its number among the sources.
    source: usize,
    /// By shape, once one came.
    mappings: [Option<Arc<Mapping>>; Shape::ALL.len()],
}

impl Messages {
    /// Those among the sources.
    pub(super) fn new(sources: &[Table]) -> Self {
        let messages = sources.iter().enumerate().filter(|(_, source)| source.is_message());
        let prefix = |(number, source): (usize, &Table)| Prefix {
            text: source.name.as_bytes().into(),
            source: number,
            mappings: Default::default(),
        };
        Self(messages.map(prefix).collect())
    }

    /// The source of a prefix; `None` where it is somebody else's.
    pub(super) fn source(&self, prefix: &[u8]) -> Option<usize> {
        self.0.iter().find(|known| *known.text == *prefix).map(|known| known.source)
    }

    /// Reads the content of a message.
    ///
    /// # Errors
    /// The templates of its source name what no envelope has.
    pub(super) fn read(
        &mut self,
        sources: &[Table],
        source: usize,
        content: &Bytes,
    ) -> Result<(Arc<Mapping>, Tuple), End> {
        let (shape, tuple) = envelope::read(content).map_err(End::protocol)?;
        let prefix = self.0.iter_mut().find(|known| known.source == source);
        let slot = prefix.and_then(|prefix| prefix.mappings.get_mut(shape as usize));
        if let Some(Some(mapping)) = &slot {
            return Ok((Arc::clone(mapping), tuple));
        }
        let config = sources.get(source).ok_or_else(|| End::protocol("a prefix of nobody"))?;
        let mapping = Mapping::compile(source, config, &shape.columns(), false);
        let mapping = Arc::new(mapping.map_err(|errors| unmapped(&errors))?);
        if let Some(slot) = slot {
            *slot = Some(Arc::clone(&mapping));
        }
        Ok((mapping, tuple))
    }
}

fn unmapped(errors: &[String]) -> End {
    Fault::definite(
        errors.join("; "),
        "correct [[messages]], so that it names members of an envelope",
    )
    .into()
}
