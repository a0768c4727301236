//! Finds the columns that the configuration names among those of a relation, and what is wrong with them.

use postgres_types::Type;

use super::pgoutput::Column;
use crate::config::{ColumnRef, MarkValue, Table};

/// Oids below this one are built in; above are enums, domains and extension types.
const FIRST_USER_OID: u32 = 16_384;

/// What a row has to hold in a column to be published, or must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleColumn {
    /// The column.
    pub column: usize,
    /// Values, as the stream says them.
    pub values: Vec<Box<str>>,
    /// Rows with one of them are left out.
    pub is_except: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Accepts {
    Text,
    Payload,
    Headers,
    Time,
    Mark,
    Constant,
}

impl Accepts {
    fn accepts(self, oid: u32) -> bool {
        if oid >= FIRST_USER_OID {
            return !matches!(self, Self::Time | Self::Mark);
        }
        let is = |types: &[Type]| types.iter().any(|accepted| accepted.oid() == oid);
        let is_text = is(&[Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME]);
        match self {
            Self::Text => {
                let numbers = [Type::INT2, Type::INT4, Type::INT8, Type::NUMERIC];
                is_text || is(&[Type::UUID]) || is(&numbers)
            }
            Self::Payload => {
                let written = [Type::JSONB, Type::JSON, Type::BYTEA, Type::XML];
                is_text || is(&written) || is(&[Type::RECORD, Type::ANY_RANGE])
            }
            Self::Headers => is_text || is(&[Type::JSONB, Type::JSON]),
            Self::Time => is(&[Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::INT8]),
            Self::Mark => is(&[Type::TIMESTAMPTZ, Type::TIMESTAMP]),
            Self::Constant => is_text || is(&[Type::BOOL, Type::INT2, Type::INT4, Type::INT8]),
        }
    }

    fn names(self) -> &'static str {
        match self {
            Self::Text => "text, varchar, uuid, bigint, integer, numeric or an enum",
            Self::Payload => "jsonb, json, text or bytea",
            Self::Headers => "jsonb, json or text",
            Self::Time => "timestamptz, timestamp or bigint (since 1970)",
            Self::Mark => "timestamptz or timestamp",
            Self::Constant => "text, varchar, an enum, boolean, smallint, integer or bigint",
        }
    }
}

/// Looks for columns, and collects what is wrong.
pub(super) struct Finder<'a> {
    pub(super) columns: &'a [Column],
    pub(super) config: &'a Table,
    pub(super) errors: Vec<String>,
}

impl Finder<'_> {
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    pub(super) fn optional(
        &mut self,
        field: &str,
        column: &ColumnRef,
        accepts: Accepts,
    ) -> Option<usize> {
        if column.name.is_empty() {
            return None;
        }
        let at = self.position(&column.name);
        match at.and_then(|at| self.columns.get(at)) {
            Some(found) if !accepts.accepts(found.type_oid) => self.errors.push(format!(
                "column \"{}\" of {} cannot be read as {field}: its type must be {}",
                column.name,
                self.config.title(),
                accepts.names(),
            )),
            None if column.is_explicit => self.missing(field, column),
            _ => {}
        }
        at
    }

    /// The columns of the mark; those that are missing are an error where they are needed.
    pub(super) fn mark(&mut self, is_needed: bool) -> Vec<(usize, Option<Box<str>>)> {
        let config = self.config;
        if !config.is_marked_in_rows() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for column in &config.mark.0 {
            let at = self.position(&column.name);
            let type_oid = at.and_then(|at| self.columns.get(at)).map(|found| found.type_oid);
            if let (Some(at), Some(type_oid)) = (at, type_oid) {
                match held(&column.value, type_oid) {
                    Ok(text) => found.push((at, text)),
                    Err(why) => self.errors.push(format!(
                        "column \"{}\" of {} cannot be read as the mark: {why}",
                        column.name,
                        config.title(),
                    )),
                }
            } else if is_needed {
                self.errors.push(format!(
                    "{} has no column \"{}\" for the mark",
                    config.title(),
                    column.name
                ));
            }
        }
        // Those that come with the row alone do not say whether it is marked.
        if found.len() < config.mark.0.len() {
            found.clear();
        }
        found
    }

    /// The columns that show that tries have ended.
    pub(super) fn failed(&mut self) {
        let config = self.config;
        for (name, value) in &config.failed {
            let found = self.columns.iter().find(|column| column.name == *name);
            let title = config.title();
            let Some(found) = found else {
                self.errors.push(format!("{title} has no column \"{name}\" for failed.{name}"));
                continue;
            };
            if let Err(why) = held(&MarkValue::Constant(value.clone()), found.type_oid) {
                let what =
                    format!("column \"{name}\" of {title} cannot be read as failed.{name}: {why}");
                self.errors.push(what);
            }
        }
    }

    /// The columns of the rule.
    pub(super) fn rule(&mut self) -> Vec<RuleColumn> {
        let config = self.config;
        let mut rule = Vec::new();
        for condition in &config.rule.0 {
            let name = config.column_of(&condition.name);
            let title = config.title();
            let Some(column) = self.position(name) else {
                self.errors.push(format!(
                    "{title} has no column \"{name}\" for {}.{}",
                    condition.section(),
                    condition.name
                ));
                continue;
            };
            let type_oid = self.columns.get(column).map_or(0, |column| column.type_oid);
            let values = condition.values.iter().map(|text| one_of(text, type_oid));
            match values.collect() {
                Ok(values) => {
                    rule.push(RuleColumn { column, values, is_except: condition.is_except });
                }
                Err(why) => self.errors.push(format!(
                    "column \"{name}\" of {title} cannot be read as {}.{}: {why}",
                    condition.section(),
                    condition.name
                )),
            }
        }
        rule
    }

    pub(super) fn required(&mut self, field: &str, column: &ColumnRef, accepts: Accepts) -> usize {
        match self.optional(field, column, accepts) {
            Some(at) => at,
            None => {
                // An explicit one was already reported by `optional`.
                if !column.is_explicit || column.name.is_empty() {
                    self.missing(field, column);
                }
                0
            }
        }
    }

    fn missing(&mut self, field: &str, column: &ColumnRef) {
        self.errors.push(format!(
            "{} has no column \"{}\" for {field}",
            self.config.title(),
            column.name,
        ));
    }
}

/// Fields that the table of today has a column for and the columns of a row have none: one line each. A column that
/// was added since may be missing. Not so where one of the row's columns, which the table has not, may be that very
/// column under another name: it has a type that can become the other's, and stands between the same neighbours, since a
/// rename moves nothing.
pub(super) fn renamed(config: &Table, columns: &[Column], today: &[Column]) -> Vec<String> {
    let named = |columns: &[Column], name: &str| columns.iter().any(|column| column.name == name);
    let fields = config.columns.fields();
    let lost = fields.iter().filter(|(_, of)| named(today, &of.name) && !named(columns, &of.name));
    let lost: Vec<_> = lost.collect();
    if lost.is_empty() {
        return Vec::new();
    }
    // One of another type that is a field under the same name in both is accounted for.
    let is_field = |column: &Column| {
        fields.iter().any(|(_, of)| of.name == column.name) && named(today, &column.name)
    };
    let stays = |column: &Column| columns.contains(column) && today.contains(column);
    let place = |all: &[Column], name: &str| {
        all.iter().take_while(|column| column.name != name).filter(|column| stays(column)).count()
    };
    let line = |(field, of): &&(&str, &ColumnRef)| {
        let now = today.iter().find(|column| column.name == of.name)?;
        let may_be = |column: &&Column| {
            !today.contains(column)
                && !is_field(column)
                && may_become(column.type_oid, now.type_oid)
                && place(columns, &column.name) == place(today, &now.name)
        };
        let others: Vec<_> =
            columns.iter().filter(may_be).map(|column| format!("\"{}\"", column.name)).collect();
        (!others.is_empty()).then(|| {
            format!(
                "a row of {} from before has no column \"{}\" for {field}, and has {}, which the table has not today",
                config.title(),
                of.name,
                others.join(", "),
            )
        })
    };
    lost.iter().filter_map(line).collect()
}

/// A column of one type may be of the other by now. Of a type that is not known here nobody can say.
fn may_become(before: u32, now: u32) -> bool {
    let kind = |oid: u32| {
        Some(match Type::from_oid(oid)? {
            Type::JSON | Type::JSONB => 0,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UUID => 1,
            Type::INT2 | Type::INT4 | Type::INT8 | Type::NUMERIC => 2,
            Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::DATE => 3,
            Type::BOOL => 4,
            _ => return None,
        })
    };
    match (kind(before), kind(now)) {
        (Some(before), Some(now)) => before == now,
        _ => true,
    }
}

/// What a column of this type holds in a row that is marked, as the server writes it.
fn held(value: &MarkValue, type_oid: u32) -> Result<Option<Box<str>>, String> {
    let accepts = match value {
        MarkValue::Now => Accepts::Mark,
        MarkValue::Constant(_) => Accepts::Constant,
    };
    let MarkValue::Constant(text) = value else {
        let is_time = accepts.accepts(type_oid);
        return is_time
            .then_some(None)
            .ok_or_else(|| format!("its type must be {}", accepts.names()));
    };
    if !accepts.accepts(type_oid) {
        return Err(format!("its type must be {}", accepts.names()));
    }
    let text = text.as_str();
    let written = match Type::from_oid(type_oid) {
        Some(Type::BOOL) => match text.to_ascii_lowercase().as_str() {
            "true" | "t" => "t".to_owned(),
            "false" | "f" => "f".to_owned(),
            _ => return Err(format!("{text:?} is not a boolean")),
        },
        Some(Type::INT2 | Type::INT4 | Type::INT8) => match text.parse::<i64>() {
            Ok(number) => number.to_string(),
            Err(_) => return Err(format!("{text:?} is not a number")),
        },
        // The spaces that fill it up are no part of the value.
        Some(Type::BPCHAR) => text.trim_end_matches(' ').to_owned(),
        _ => text.to_owned(),
    };
    Ok(Some(written.into()))
}

/// A value of a rule as the stream says it. SQL compares the column as text: what is written has to be that.
fn one_of(text: &str, type_oid: u32) -> Result<Box<str>, String> {
    let accepts = Accepts::Constant;
    if !(accepts.accepts(type_oid) || type_oid == Type::UUID.oid()) {
        return Err(format!("its type must be {} or uuid", accepts.names()));
    }
    match Type::from_oid(type_oid) {
        Some(Type::BOOL) => match text {
            "true" => Ok("t".into()),
            "false" => Ok("f".into()),
            _ => Err(format!("it is a boolean, and {text:?} is neither true nor false")),
        },
        Some(Type::INT2 | Type::INT4 | Type::INT8) => {
            let is_written = text.parse::<i64>().is_ok_and(|number| number.to_string() == text);
            is_written
                .then(|| text.into())
                .ok_or_else(|| format!("{text:?} is not a number as Postgres writes it"))
        }
        _ => Ok(text.into()),
    }
}
