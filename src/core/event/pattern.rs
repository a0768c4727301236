//! Templates whose columns were found, and what a row makes of them.

use std::borrow::Cow;

use postgres_types::Type;

use super::finder::Finder;
use super::path;
use super::{Refusal, Row};
use crate::config::{
    CloudEvents, ColumnRef, Field, MessageMap, OF_SCHEMA, OF_TABLE, Piece, Property, Template,
    ValueType,
};
use crate::core::hash::murmur3;

/// A [`Template`] whose columns were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) Vec<Vec<PatternPiece>>);

/// A part of a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PatternPiece {
    /// Text as it stands.
    Text(String),
    /// The text of a column.
    Column(usize),
    /// What stands in the JSON of a column behind these names.
    Path(usize, Vec<String>),
    /// The hash of what another piece yields, modulo this.
    Hash(Box<Self>, u32),
}

/// A pattern, and what its text is read as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypedPattern {
    /// Makes the text.
    pub(crate) pattern: Pattern,
    /// What it is read as.
    pub(crate) value_type: ValueType,
}

/// What the configuration makes of the columns, beside exchange, routing key and the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessagePatterns {
    /// Properties.
    pub(crate) properties: Vec<(Property, Pattern)>,
    /// Headers by name.
    pub(crate) headers: Vec<(String, TypedPattern)>,
    /// The body's members; none where the body is the payload.
    pub(crate) body: Vec<(String, Member)>,
    /// Exchange and routing key by type of event.
    pub(crate) routes: Vec<(String, [Option<Pattern>; 2])>,
    /// Attributes of a CloudEvent.
    pub(crate) cloudevents: Option<CloudPatterns>,
}

/// A member of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Member {
    /// A value.
    Value(TypedPattern),
    /// An object.
    Object(Vec<(String, Self)>),
}

/// The attributes of a CloudEvent that columns make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloudPatterns {
    /// The event as JSON around the payload, instead of headers beside it.
    pub(crate) is_structured: bool,
    /// Of the headers' names.
    pub(crate) prefix: String,
    /// `source`.
    pub(crate) source: Pattern,
    /// `type`.
    pub(crate) event_type: Pattern,
    /// `subject` and `dataschema`, where they yield something.
    pub(crate) optional: Vec<(&'static str, Pattern)>,
    /// Further attributes, by name.
    pub(crate) extensions: Vec<(String, TypedPattern)>,
    /// Whether the payload's column holds JSON.
    pub(crate) is_json: bool,
}

impl Pattern {
    /// The text that a row makes: of the first alternative whose columns are all set.
    ///
    /// # Errors
    /// A column that it names holds a value that cannot be read.
    pub(crate) fn text<'a>(
        &'a self,
        setting: &'static str,
        row: Row<'a>,
    ) -> Result<Option<Cow<'a, str>>, Refusal> {
        for alternative in &self.0 {
            if let Some(text) = joined(alternative, setting, row, false)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

impl TypedPattern {
    /// The text that a row makes, as its type is written: JSON where that is the type.
    ///
    /// # Errors
    /// A column that it names holds a value that cannot be read.
    pub(crate) fn text<'a>(
        &'a self,
        setting: &'static str,
        row: Row<'a>,
    ) -> Result<Option<Cow<'a, str>>, Refusal> {
        let is_json = self.value_type == ValueType::Json;
        for alternative in &self.pattern.0 {
            if let Some(text) = joined(alternative, setting, row, is_json)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

/// The text of an alternative; `None` where a column is not set.
fn joined<'a>(
    pieces: &'a [PatternPiece],
    setting: &'static str,
    row: Row<'a>,
    is_json: bool,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    if let [piece] = pieces {
        return piece_text(piece, setting, row, is_json);
    }
    let mut text = String::new();
    for piece in pieces {
        match piece_text(piece, setting, row, false)? {
            Some(part) => text.push_str(&part),
            None => return Ok(None),
        }
    }
    Ok(Some(Cow::Owned(text)))
}

/// The text of a piece; `None` where its column is not set.
///
/// # Errors
/// A column that it names holds a value that cannot be read.
pub(super) fn piece_text<'a>(
    piece: &'a PatternPiece,
    setting: &'static str,
    row: Row<'a>,
    is_json: bool,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    match piece {
        PatternPiece::Text(text) => Ok(Some(Cow::Borrowed(text))),
        PatternPiece::Column(column) => Ok(row.text(setting, *column)?.map(Cow::Borrowed)),
        PatternPiece::Hash(of, count) => {
            Ok(hashed(of, *count, setting, row)?.map(|number| Cow::Owned(number.to_string())))
        }
        PatternPiece::Path(column, names) => match row.text(setting, *column)? {
            None => Ok(None),
            Some(json) => {
                let found = match is_json {
                    true => path::json(json, names).map(|found| found.map(Cow::Borrowed)),
                    false => path::text(json, names),
                };
                found.map_err(|why| Refusal::unreadable(setting, why))
            }
        },
    }
}

/// The number that the hash of a piece is; `None` where its column is not set, or empty.
///
/// # Errors
/// A value that cannot be read.
pub(super) fn hashed(
    of: &PatternPiece,
    count: u32,
    setting: &'static str,
    row: Row<'_>,
) -> Result<Option<u32>, Refusal> {
    let text = piece_text(of, setting, row, false)?.filter(|text| !text.is_empty());
    Ok(text.and_then(|text| murmur3(text.as_bytes()).checked_rem(count)))
}

impl Finder<'_> {
    /// Finds the columns of a template.
    pub(super) fn pattern(&mut self, setting: &str, template: &Template) -> Pattern {
        let (pattern, value_type) = self.typed(setting, template);
        if value_type.is_some() {
            let title = self.config.title();
            self.errors.push(format!("{setting} of {title} is text, and has no type"));
        }
        pattern
    }

    /// The column and the names of a template that is one place: of what is read as it stands there.
    pub(super) fn place(
        &mut self,
        setting: &str,
        template: Option<&Template>,
    ) -> Option<(usize, Vec<String>)> {
        let template = template?;
        let before = self.errors.len();
        let pattern = self.pattern(setting, template);
        let alternative = match pattern.0.as_slice() {
            [pieces] => pieces.as_slice(),
            _ => &[],
        };
        match alternative {
            [PatternPiece::Column(at)] => return Some((*at, Vec::new())),
            [PatternPiece::Path(at, names)] => return Some((*at, names.clone())),
            // What is wrong with it has been reported.
            _ if self.errors.len() > before => {}
            _ => self.errors.push(format!(
                "{setting} of {} must be one place in a column of it, such as {{content.data}}",
                self.config.title()
            )),
        }
        None
    }

    /// A template with the type that it says.
    fn typed(&mut self, setting: &str, template: &Template) -> (Pattern, Option<ValueType>) {
        let mut value_type = None;
        let alternatives = template.0.iter();
        let pattern = Pattern(
            alternatives
                .filter_map(|pieces| {
                    pieces.iter().map(|piece| self.piece(setting, piece, &mut value_type)).collect()
                })
                .collect(),
        );
        (pattern, value_type)
    }

    /// `None` leaves the alternative out: it names a default field that this table lacks.
    fn piece(
        &mut self,
        setting: &str,
        piece: &Piece,
        value_type: &mut Option<ValueType>,
    ) -> Option<PatternPiece> {
        let name = match piece {
            Piece::Text(text) => return Some(PatternPiece::Text(text.clone())),
            Piece::Column(name) => name.as_str(),
            Piece::Hash(name, count) => {
                let mut typed = None;
                let of = self.piece(setting, &Piece::Column(name.clone()), &mut typed)?;
                if typed.is_some() {
                    let title = self.config.title();
                    self.errors.push(format!("{setting} of {title} has a hash, which has no type"));
                }
                return Some(PatternPiece::Hash(Box::new(of), *count));
            }
        };
        if let Some(found) = self.whole(name) {
            return found.ok();
        }
        // No column has such a name, so what is behind a colon is a type, and behind a dot a path.
        let typed =
            name.rsplit_once(':').and_then(|(name, named)| Some((name, ValueType::named(named)?)));
        let name = typed.map_or(name, |(name, _)| name);
        if let Some((_, said)) = typed
            && value_type.replace(said).is_some_and(|before| before != said)
        {
            let title = self.config.title();
            self.errors.push(format!("{setting} of {title} has two types"));
        }
        if let Some(found) = self.whole(name).or_else(|| self.path(name)) {
            return found.ok();
        }
        match name {
            OF_SCHEMA => return Some(PatternPiece::Text(self.config.schema.clone())),
            OF_TABLE => return Some(PatternPiece::Text(self.config.name.clone())),
            _ => {}
        }
        let columns: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        self.errors.push(format!(
            "{setting} of {} names \"{name}\", which is neither a field nor a column: its columns are {}",
            self.config.title(),
            columns.join(", "),
        ));
        None
    }

    /// A field or column of this very name; an error where the field's default column is not there.
    fn whole(&self, name: &str) -> Option<Result<PatternPiece, ()>> {
        let field = self.config.columns.field(name);
        let column = field.map_or(name, |field| field.name.as_str());
        match self.position(column) {
            Some(at) => Some(Ok(PatternPiece::Column(at))),
            None => {
                let is_default = |field: &ColumnRef| !field.is_explicit || field.name.is_empty();
                field.is_some_and(is_default).then_some(Err(()))
            }
        }
    }

    /// `column.name.name`: a place in the column's JSON.
    fn path(&mut self, name: &str) -> Option<Result<PatternPiece, ()>> {
        let (column, names) = name.split_once('.')?;
        let names: Vec<String> = names.split('.').map(str::to_owned).collect();
        match self.whole(column)? {
            Ok(PatternPiece::Column(at)) if names.iter().all(|name| !name.is_empty()) => {
                Some(Ok(PatternPiece::Path(at, names)))
            }
            Err(()) => Some(Err(())),
            Ok(_) => None,
        }
    }

    /// What the configuration makes of the columns, where it makes anything.
    pub(super) fn message(&mut self, map: &MessageMap) -> Option<Box<MessagePatterns>> {
        if map.is_empty() {
            return None;
        }
        let properties = map.properties.iter().map(|(property, template)| {
            (*property, self.pattern(&format!("properties.{}", property.name()), template))
        });
        let properties = properties.collect();
        let headers = map.headers.iter().map(|(name, field)| {
            let setting = format!("headers.{name}");
            (name.clone(), self.value(&setting, field, Some(ValueType::Text)))
        });
        let headers = headers.collect();
        let mut body = Vec::new();
        for (name, field) in &map.body {
            let value = self.value(&format!("body.{name}"), field, None);
            insert(&mut body, name, value);
        }
        let mut routes = Vec::new();
        for route in &map.events {
            let name = &route.event_type;
            let settings = [("exchange", &route.exchange), ("routing_key", &route.routing_key)];
            let patterns = settings.map(|(setting, template)| {
                let template = template.as_ref()?;
                Some(self.pattern(&format!("events.{name}.{setting}"), template))
            });
            routes.push((name.clone(), patterns));
        }
        let cloudevents = map.cloudevents.as_ref().map(|it| self.cloudevents(it));
        Some(Box::new(MessagePatterns { properties, headers, body, routes, cloudevents }))
    }

    /// A field with its type: what the file or the template says, or else `otherwise`, or else
    /// what the column is.
    fn value(
        &mut self,
        setting: &str,
        field: &Field,
        otherwise: Option<ValueType>,
    ) -> TypedPattern {
        let (pattern, said) = self.typed(setting, &field.template);
        let natural = || self.natural(&pattern);
        let value_type = field.value_type.or(said).or(otherwise).unwrap_or_else(natural);
        TypedPattern { pattern, value_type }
    }

    /// The type of a value that is all of one column.
    fn natural(&self, pattern: &Pattern) -> ValueType {
        let alternatives = pattern.0.iter().map(|pieces| match pieces.as_slice() {
            [PatternPiece::Column(at)] => self.of_column(*at),
            [PatternPiece::Path(..)] => ValueType::Json,
            _ => ValueType::Text,
        });
        let mut types = alternatives;
        let first = types.next().unwrap_or(ValueType::Text);
        if types.all(|it| it == first) { first } else { ValueType::Text }
    }

    fn of_column(&self, at: usize) -> ValueType {
        let oid = self.columns.get(at).map_or(0, |column| column.type_oid);
        let is = |types: &[Type]| types.iter().any(|it| it.oid() == oid);
        if is(&[Type::JSON, Type::JSONB]) {
            ValueType::Json
        } else if is(&[Type::INT2, Type::INT4, Type::INT8]) {
            ValueType::Integer
        } else if is(&[Type::NUMERIC, Type::FLOAT4, Type::FLOAT8]) {
            ValueType::Number
        } else if is(&[Type::BOOL]) {
            ValueType::Boolean
        } else if is(&[Type::BYTEA]) {
            ValueType::Base64
        } else {
            ValueType::Text
        }
    }

    fn cloudevents(&mut self, events: &CloudEvents) -> CloudPatterns {
        let subject = ("subject", Some(&events.subject));
        let dataschema = ("dataschema", events.dataschema.as_ref());
        let mut optional = Vec::new();
        for (name, template) in [subject, dataschema] {
            if let Some(template) = template {
                optional.push((name, self.pattern(&format!("cloudevents.{name}"), template)));
            }
        }
        let extensions = events.extensions.iter().map(|(name, field)| {
            let setting = format!("cloudevents.extensions.{name}");
            (name.clone(), self.value(&setting, field, None))
        });
        let extensions = extensions.collect();
        let payload = self.position(&self.config.columns.payload.name);
        let is_place = self.config.message.envelope.payload.is_some();
        CloudPatterns {
            is_structured: events.is_structured,
            prefix: events.prefix.clone(),
            source: self.pattern("cloudevents.source", &events.source),
            event_type: self.pattern("cloudevents.type", &events.event_type),
            optional,
            extensions,
            is_json: is_place || payload.is_some_and(|at| self.of_column(at) == ValueType::Json),
        }
    }
}

/// Puts a value where its name with dots says. That none is a value and an object too is
/// checked with the configuration.
fn insert(members: &mut Vec<(String, Member)>, name: &str, value: TypedPattern) {
    let Some((outer, inner)) = name.split_once('.') else {
        members.push((name.to_owned(), Member::Value(value)));
        return;
    };
    if let Some((_, Member::Object(object))) = members.iter_mut().find(|(it, _)| it == outer) {
        insert(object, inner, value);
        return;
    }
    let mut object = Vec::new();
    insert(&mut object, inner, value);
    members.push((outer.to_owned(), Member::Object(object)));
}
