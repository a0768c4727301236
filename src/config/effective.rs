//! Values that follow from others, as `pgoutbox config` shows them.

use std::collections::BTreeMap;

/// Value and origin by key, for settings whose effective value is not what was written.
#[derive(Debug, Default)]
pub(crate) struct EffectiveValues(BTreeMap<String, (String, String)>);

impl EffectiveValues {
    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>, origin: impl ToString) {
        self.0.insert(key.to_owned(), (value.into(), origin.to_string()));
    }

    pub(crate) fn get(&self, key: &str) -> Option<(&str, &str)> {
        let (value, origin) = self.0.get(key)?;
        Some((value, origin))
    }
}
