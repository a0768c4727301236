//! What a message has beside what follows from the columns: properties, headers, a body of
//! several columns, a way of its own for a type of event, CloudEvents.

use super::{Piece, Table, Template};

/// In a template: the schema of the event's table.
pub(crate) const OF_SCHEMA: &str = "schema()";
/// In a template: the name of the event's table.
pub(crate) const OF_TABLE: &str = "table()";

/// How messages of a table are made, beside its columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageMap {
    /// Where the payload and the headers stand, where a column holds more than one of them.
    pub envelope: Envelope,
    /// Properties by template; one is left out where its template yields nothing.
    pub properties: Vec<(Property, Template)>,
    /// Headers by name.
    pub headers: Vec<(String, Field)>,
    /// Members of the body by name, where the body is an object of several columns; dots nest.
    pub body: Vec<(String, Field)>,
    /// Exchange and routing key by type of event.
    pub events: Vec<Route>,
    /// CloudEvents, where the messages are to be such.
    pub cloudevents: Option<CloudEvents>,
    /// The user that pgoutbox logs in to the broker as: the only `user_id` that RabbitMQ takes.
    pub broker_user: Option<String>,
}

/// Places in the JSON of a column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// Of the payload, instead of `columns.payload` as a whole.
    pub payload: Option<Template>,
    /// Of the object of headers, instead of `columns.headers`.
    pub headers: Option<Template>,
}

impl MessageMap {
    /// Whether nothing is made by template.
    pub fn is_empty(&self) -> bool {
        let Self { envelope: _, properties, headers, body, events, cloudevents, broker_user: _ } =
            self;
        properties.is_empty()
            && headers.is_empty()
            && body.is_empty()
            && events.is_empty()
            && cloudevents.is_none()
    }
}

impl Table {
    /// `schema.table` or `message:prefix`, as people write it; for SQL see `postgres::sql::qualified`.
    pub fn title(&self) -> String {
        title(&self.schema, &self.name)
    }

    /// It is not a table: its events are messages of the prefix that is its name, and have no row.
    pub(crate) fn is_message(&self) -> bool {
        self.schema.is_empty()
    }

    /// The exchanges of its messages, as templates: its own, and those of types of events.
    pub fn exchanges(&self) -> impl Iterator<Item = &Template> {
        let routes = self.message.events.iter().filter_map(|route| route.exchange.as_ref());
        std::iter::once(&self.exchange).chain(routes)
    }
}

/// What people call a table, or the messages of a prefix, which have no schema.
pub(crate) fn title(schema: &str, name: &str) -> String {
    match schema {
        "" => format!("message:{name}"),
        schema => format!("{schema}.{name}"),
    }
}

/// A property of a message that a template can make. The event's id is its `message_id`, always:
/// consumers know repeats by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// `content_type`.
    ContentType,
    /// `content_encoding`.
    ContentEncoding,
    /// `priority`, 0 to 255.
    Priority,
    /// `correlation_id`.
    CorrelationId,
    /// `reply_to`.
    ReplyTo,
    /// `expiration`, milliseconds.
    Expiration,
    /// `timestamp`.
    Timestamp,
    /// `type`.
    Type,
    /// `user_id`; it must be the user of the connection.
    UserId,
    /// `app_id`.
    AppId,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
    ];

    /// Its name in AMQP and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
        }
    }
}

/// Where events of one type go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The type.
    pub event_type: String,
    /// Their exchange; the table's where there is none.
    pub exchange: Option<Template>,
    /// Their routing key; the table's where there is none.
    pub routing_key: Option<Template>,
}

/// A header's or member's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What it is made of.
    pub template: Template,
    /// Its type, where the file says it by the value's own. Else the template says it.
    pub value_type: Option<ValueType>,
}

impl Field {
    /// By template.
    pub fn of(template: Template) -> Self {
        Self { template, value_type: None }
    }

    /// A number for all events.
    pub fn integer(number: i64) -> Self {
        Self::constant(number.to_string(), ValueType::Integer)
    }

    /// A flag for all events.
    pub fn boolean(flag: bool) -> Self {
        Self::constant(flag.to_string(), ValueType::Boolean)
    }

    fn constant(text: String, value_type: ValueType) -> Self {
        let template = Template(vec![vec![Piece::Text(text)]]);
        Self { template, value_type: Some(value_type) }
    }
}

/// What a text is read as, to be written as a header's value or into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Text, as it stands.
    Text,
    /// A whole number of 64 bits.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`, as Postgres or JSON writes it.
    Boolean,
    /// Any JSON.
    Json,
    /// Bytes, as Base64 in a text: of a column of type bytea.
    Base64,
}

impl ValueType {
    /// All of them, by the names that templates have for them.
    pub const ALL: [(&'static str, Self); 6] = [
        ("text", Self::Text),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("json", Self::Json),
        ("base64", Self::Base64),
    ];

    /// The type of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, it)| *it)
    }
}

/// CloudEvents 1.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvents {
    /// The event as JSON around the payload, instead of headers beside it.
    pub is_structured: bool,
    /// Of the headers' names.
    pub prefix: String,
    /// `source`.
    pub source: Template,
    /// `type`.
    pub event_type: Template,
    /// `subject`, where it yields something.
    pub subject: Template,
    /// `dataschema`.
    pub dataschema: Option<Template>,
    /// Further attributes, by name.
    pub extensions: Vec<(String, Field)>,
}
