//! Tables by the pattern of their names: `tables.N.pattern`.

use super::{Config, Table};

/// What any characters stand for, none of them included.
const ANY: char = '*';

/// A table that matches a pattern, as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its oid.
    pub relation: u32,
    /// Another with each change of what decides whether it can be read and marked.
    pub version: String,
    /// Why it is left out, and what helps; `None` where it is read.
    pub left_out: Option<(String, String)>,
}

impl Config {
    /// Tables are named by patterns that were not looked up yet.
    pub(crate) fn has_patterns(&self) -> bool {
        self.tables.iter().any(|table| table.is_pattern)
    }

    /// The oids of the tables that patterns found, and whether each was left out.
    pub(crate) fn found_relations(&self) -> impl Iterator<Item = (u32, bool)> {
        self.found.iter().map(|it| (it.relation, it.left_out.is_some()))
    }
}

impl Table {
    /// Whether its pattern is one of this table.
    pub(crate) fn matches(&self, schema: &str, name: &str) -> bool {
        self.is_pattern && matches(&self.schema, schema) && matches(&self.name, name)
    }

    /// Its pattern as SQL's LIKE has it.
    pub(crate) fn like(&self) -> [String; 2] {
        [like(&self.schema), like(&self.name)]
    }
}

/// Where a name may be split by what `ANY` stands for, the first place that fits is as good as any other.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once(ANY) else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split(ANY).collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = name.split_once(part) else { return false };
        name = after;
    }
    name.ends_with(last)
}

fn like(pattern: &str) -> String {
    let mut like = String::with_capacity(pattern.len() + 4);
    for character in pattern.chars() {
        match character {
            ANY => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', character]),
            _ => like.push(character),
        }
    }
    like
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn any_characters_stand_for_any_and_all_others_for_themselves() {
        for (pattern, name) in [
            ("outbox", "outbox"),
            ("tenant_*", "tenant_"),
            ("tenant_*", "tenant_7"),
            ("*", ""),
            ("*box", "outbox"),
            ("a*a", "aa"),
            ("a*b*a", "abba"),
            ("**", "x"),
            ("ö*ö", "öäö"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("outbox", "outbox2"),
            ("tenant_*", "tenantx7"),
            ("a*a", "a"),
            ("a*b*a", "aba2"),
            ("a*ba*a", "aba"),
            ("o%", "outbox"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert_eq!(like(r"te_na%nt\*"), r"te\_na\%nt\\%");
    }

    /// The plain definition.
    fn slowly(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((&ANY, rest)) => (0..=name.len()).any(|at| slowly(rest, &name[at..])),
            Some((first, rest)) => name.first() == Some(first) && slowly(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_as_by_the_definition(pattern in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let [p, n] = [&pattern, &name].map(|text| text.chars().collect::<Vec<_>>());
            prop_assert_eq!(matches(&pattern, &name), slowly(&p, &n));
        }
    }
}
