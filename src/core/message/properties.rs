//! The properties of a message, in the order in which AMQP writes them (0-9-1, 4.2.6.1).

use std::borrow::Cow;

use super::headers::write_headers;
use super::short;
use super::sources::PropertySources;
use crate::config::Property;
use crate::core::event::{Refusal, micros_of};

/// AMQP's persistent delivery mode.
pub(super) const PERSISTENT: u8 = 2;
/// The content type of a CloudEvent as JSON.
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// Which properties there are.
pub(super) mod flag {
    pub(in crate::core::message) const CONTENT_TYPE: u16 = 1 << 15;
    pub(in crate::core::message) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(in crate::core::message) const HEADERS: u16 = 1 << 13;
    pub(in crate::core::message) const DELIVERY_MODE: u16 = 1 << 12;
    pub(in crate::core::message) const PRIORITY: u16 = 1 << 11;
    pub(in crate::core::message) const CORRELATION_ID: u16 = 1 << 10;
    pub(in crate::core::message) const REPLY_TO: u16 = 1 << 9;
    pub(in crate::core::message) const EXPIRATION: u16 = 1 << 8;
    pub(in crate::core::message) const MESSAGE_ID: u16 = 1 << 7;
    pub(in crate::core::message) const TIMESTAMP: u16 = 1 << 6;
    pub(in crate::core::message) const TYPE: u16 = 1 << 5;
    pub(in crate::core::message) const USER_ID: u16 = 1 << 4;
    pub(in crate::core::message) const APP_ID: u16 = 1 << 3;
}

/// Writes all properties, and returns the `timestamp` among them.
///
/// # Errors
/// A column that a property comes from cannot be read, or holds what AMQP or the broker cannot
/// take.
pub(super) fn write(head: &mut Vec<u8>, of: PropertySources<'_>) -> Result<u64, Refusal> {
    let event = of.event;
    let flags_at = head.len();
    head.extend_from_slice(&[0; 2]);
    let mut flags = flag::HEADERS | flag::DELIVERY_MODE | flag::MESSAGE_ID | flag::TIMESTAMP;
    let content_type = match of.is_structured() {
        true => Some(Cow::Borrowed(CLOUD_EVENT)),
        false => of.content_type()?,
    };
    flags |= named(head, flag::CONTENT_TYPE, "content_type", content_type)?;
    let content_encoding = of.text(Property::ContentEncoding, None)?;
    flags |= named(head, flag::CONTENT_ENCODING, "content_encoding", content_encoding)?;
    write_headers(head, of)?;
    head.push(PERSISTENT);
    if let Some(priority) = of.text(Property::Priority, None)? {
        let why = "it is not a number from 0 to 255";
        head.push(priority.parse().map_err(|_| Refusal::unreadable("priority", why))?);
        flags |= flag::PRIORITY;
    }
    let correlation_id = of.text(Property::CorrelationId, event.correlation_id)?;
    flags |= named(head, flag::CORRELATION_ID, "correlation_id", correlation_id)?;
    flags |= named(head, flag::REPLY_TO, "reply_to", of.text(Property::ReplyTo, None)?)?;
    let expiration = of.text(Property::Expiration, None)?;
    let expiration = expiration.map(milliseconds).transpose()?;
    flags |= named(head, flag::EXPIRATION, "expiration", expiration)?;
    short(head, "id", event.message_id)?;
    let timestamp = timestamp(of)?;
    head.extend_from_slice(&timestamp.to_be_bytes());
    let event_type = of.text(Property::Type, event.event_type)?;
    flags |= named(head, flag::TYPE, "event_type", event_type)?;
    flags |= named(head, flag::USER_ID, "user_id", user_id(of)?)?;
    let app_id = of.text(Property::AppId, of.table.app_id.as_deref())?;
    flags |= named(head, flag::APP_ID, "app_id", app_id)?;
    if let Some(place) = head.get_mut(flags_at..flags_at + 2) {
        place.copy_from_slice(&flags.to_be_bytes());
    }
    Ok(timestamp)
}

/// Writes a property where there is one; returns its flag then.
fn named(
    head: &mut Vec<u8>,
    flag: u16,
    name: &str,
    text: Option<Cow<'_, str>>,
) -> Result<u16, Refusal> {
    match text {
        Some(text) => short(head, name, &text).map(|()| flag),
        None => Ok(0),
    }
}

/// RabbitMQ closes the channel over an `expiration` that it cannot read: it takes 32 bits.
fn milliseconds(text: Cow<'_, str>) -> Result<Cow<'_, str>, Refusal> {
    match text.parse::<u32>() {
        Ok(_) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(text),
        _ => {
            let why = format!("it is not a number of milliseconds from 0 to {}", u32::MAX);
            Err(Refusal::unreadable("expiration", why))
        }
    }
}

/// RabbitMQ closes the channel over a `user_id` that is not the connection's user.
fn user_id<'a>(of: PropertySources<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
    let user_id = of.text(Property::UserId, None)?;
    let user = of.table.message.broker_user.as_deref();
    match (&user_id, user) {
        (Some(said), Some(user)) if said != user => {
            let why = format!("it is not \"{user}\", as whom pgoutbox logs in to the broker");
            Err(Refusal::unreadable("user_id", why))
        }
        _ => Ok(user_id),
    }
}

/// That of the property, where it can be read; else when the event happened.
fn timestamp(of: PropertySources<'_>) -> Result<u64, Refusal> {
    let said = of.text(Property::Timestamp, None)?;
    let said = said.and_then(|text| micros_of(&text));
    let seconds = said.and_then(|micros| u64::try_from(micros / 1_000_000).ok());
    Ok(seconds.unwrap_or_else(|| of.event.seconds()))
}
