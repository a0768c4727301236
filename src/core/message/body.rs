//! The body of a message, where it is more than the payload: an object of several columns, or a
//! CloudEvent around it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::sources::PropertySources;
use super::value::{attribute, json_text, parsed, to_json};
use crate::config::ValueType;
use crate::core::event::pattern::{CloudPatterns, Member};
use crate::core::event::relation::PayloadKind;
use crate::core::event::{Refusal, Row};

/// What a body has around its payload, at least.
const FRAME_BYTES: usize = 256;

/// The body that the configuration makes; the payload itself where it makes none.
///
/// # Errors
/// A value that is not of its type, or an attribute that is missing; or it is larger than that.
pub(super) fn build(of: PropertySources<'_>, most_bytes: usize) -> Result<Bytes, Refusal> {
    let Some(patterns) = of.mapping.message.as_deref() else {
        return Ok(of.event.payload.clone());
    };
    let members = match patterns.body.as_slice() {
        [] => None,
        members => Some(object(members, of, most_bytes)?),
    };
    match &patterns.cloudevents {
        Some(events) if events.is_structured => structured(events, members, of),
        _ => Ok(members.map_or_else(|| of.event.payload.clone(), Bytes::from)),
    }
}

fn object(
    members: &[(String, Member)],
    of: PropertySources<'_>,
    most_bytes: usize,
) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(FRAME_BYTES + of.event.payload.len());
    write_object(&mut out, members, of.row, most_bytes)?;
    Ok(out)
}

fn write_object(
    out: &mut Vec<u8>,
    members: &[(String, Member)],
    row: Row<'_>,
    most_bytes: usize,
) -> Result<(), Refusal> {
    let mut object = Object::open(out);
    for (name, member) in members {
        let out = object.name(name);
        match member {
            Member::Object(members) => write_object(out, members, row, most_bytes)?,
            Member::Value(value) => match value.text("body", row)? {
                Some(text) => {
                    // Known before it is copied. Base64 of a bytea takes less than its text, nothing else does.
                    let bytes = out.len() + text.len() / 2;
                    if bytes > most_bytes {
                        return Err(Refusal::BodyTooLarge { bytes, limit: most_bytes });
                    }
                    to_json(out, name, value.value_type, &text)?;
                }
                None => out.extend_from_slice(b"null"),
            },
        }
    }
    object.close();
    Ok(())
}

/// An object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Starts a member. Its value is to be written into what is returned.
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        json_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, name: &str, text: &str) {
        let out = self.name(name);
        json_text(out, text);
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

/// A CloudEvent in its JSON form, around the payload or what is made instead of it.
fn structured(
    events: &CloudPatterns,
    members: Option<Vec<u8>>,
    of: PropertySources<'_>,
) -> Result<Bytes, Refusal> {
    let content_type = of.content_type()?;
    let mut out = Vec::with_capacity(2 * FRAME_BYTES + of.event.payload.len());
    let mut object = Object::open(&mut out);
    for (name, text) in attributes(events, of)? {
        object.text(name, &text);
    }
    if let Some(content_type) = &content_type {
        object.text("datacontenttype", content_type);
    }
    for (name, extension) in &events.extensions {
        if let Some(text) = extension.text("cloudevents", of.row)? {
            // An attribute is a text, a flag or a whole number: nothing else has a form in all bindings.
            let out = object.name(name);
            match extension.value_type {
                it @ (ValueType::Integer | ValueType::Boolean) => to_json(out, name, it, &text)?,
                it => json_text(out, &attribute(name, it, text)?),
            }
        }
    }
    data(&mut object, events, members, of, content_type.as_deref())?;
    object.close();
    Ok(Bytes::from(out))
}

/// The payload: as JSON where it is some, else as text, or as Base64 where it is bytes.
fn data(
    object: &mut Object<'_>,
    events: &CloudPatterns,
    members: Option<Vec<u8>>,
    of: PropertySources<'_>,
    content_type: Option<&str>,
) -> Result<(), Refusal> {
    if let Some(members) = members {
        object.name("data").extend_from_slice(&members);
        return Ok(());
    }
    let payload = &of.event.payload;
    if of.is_null_payload() {
        return Ok(());
    }
    if of.mapping.payload_kind == PayloadKind::Bytea {
        object.text("data_base64", &STANDARD.encode(payload));
        return Ok(());
    }
    let unreadable = |why: &str| Refusal::unreadable("payload", why);
    let text = std::str::from_utf8(payload).map_err(|_| unreadable("it is not UTF-8"))?;
    if events.is_json || content_type.is_none_or(is_json) {
        let json =
            parsed(text).ok_or_else(|| unreadable("it is no JSON, as its content type says"))?;
        object.name("data").extend_from_slice(json.as_bytes());
    } else {
        object.text("data", text);
    }
    Ok(())
}

/// `application/json`, `text/json`, `application/vnd.shop+json`, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media.ends_with("/json") || media.ends_with("+json")
}

/// The attributes that are text, but for the content type: id, source, version, type, time and
/// what else the configuration names.
///
/// # Errors
/// One that CloudEvents asks for is missing.
pub(super) fn attributes<'a>(
    events: &'a CloudPatterns,
    of: PropertySources<'a>,
) -> Result<Vec<(&'static str, Cow<'a, str>)>, Refusal> {
    let required = |setting: &'static str, text: Option<Cow<'a, str>>| {
        text.filter(|text| !text.is_empty()).ok_or(Refusal::Unnamed { setting })
    };
    let source = events.source.text("cloudevents.source", of.row)?;
    let event_type = events.event_type.text("cloudevents.type", of.row)?;
    let mut attributes = vec![
        ("specversion", Cow::Borrowed("1.0")),
        ("id", required("id", Some(Cow::Borrowed(of.event.message_id)))?),
        ("source", required("cloudevents.source", source)?),
        ("type", required("cloudevents.type", event_type)?),
    ];
    if let Ok(time) = jiff::Timestamp::from_microsecond(of.event.micros) {
        attributes.push(("time", Cow::Owned(time.to_string())));
    }
    for (name, pattern) in &events.optional {
        if let Some(text) = pattern.text(name, of.row)?.filter(|text| !text.is_empty()) {
            attributes.push((name, text));
        }
    }
    Ok(attributes)
}
