//! Frames: found and written by hand where each message passes, with the protocol's crate otherwise.

use amq_protocol::frame::{AMQPFrame, gen_frame, parse_frame};
use amq_protocol::protocol::AMQPClass;
use anyhow::{Context, Result, anyhow};

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
/// Type, channel, size.
const HEAD_BYTES: usize = 7;
const END: u8 = 0xCE;
/// Class and method of `basic.publish`.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];
const ACK: [u8; 4] = [0, 60, 0, 80];
const NACK: [u8; 4] = [0, 60, 0, 120];

/// A frame in the bytes that came.
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) channel: u16,
    pub(super) payload: &'a [u8],
    /// All of it.
    pub(super) bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first one, if all of it is there.
    pub(super) fn first(bytes: &'a [u8]) -> Result<Option<Self>> {
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, channel @ .., _, _, _, _] = head;
        let [.., size_1, size_2, size_3, size_4] = head;
        let size = u32::from_be_bytes([*size_1, *size_2, *size_3, *size_4]);
        let size = usize::try_from(size)?;
        let Some(end) = rest.get(size) else { return Ok(None) };
        anyhow::ensure!(*end == END, "a frame without its end");
        let (Some(payload), Some(bytes)) = (rest.get(..size), bytes.get(..HEAD_BYTES + size + 1))
        else {
            return Ok(None);
        };
        Ok(Some(Self { kind: *kind, channel: u16::from_be_bytes(*channel), payload, bytes }))
    }

    /// Exchange, routing key and bits, where it is a publish.
    pub(super) fn publish(&self) -> Option<&'a [u8]> {
        let is_publish = self.kind == METHOD && self.payload.starts_with(&PUBLISH);
        // Behind them, two reserved bytes.
        is_publish.then(|| self.payload.get(6..)).flatten()
    }

    /// Likewise, as a method.
    pub(super) fn method(&self) -> Result<AMQPClass> {
        match parse_frame(self.bytes) {
            Ok((_, AMQPFrame::Method(_, method))) => Ok(method),
            Ok((_, other)) => Err(anyhow!("no method: {other}")),
            Err(error) => Err(anyhow!("no frame: {error:?}")),
        }
    }
}

/// A short string and what is behind it.
pub(super) fn short_string(bytes: &[u8]) -> Result<(String, &[u8])> {
    let (len, rest) = bytes.split_first().context("no short string")?;
    let (text, rest) = rest.split_at_checked(usize::from(*len)).context("a string cut short")?;
    Ok((String::from_utf8_lossy(text).into_owned(), rest))
}

/// The body's size in a content header's payload.
pub(super) fn body_size(payload: &[u8]) -> Result<usize> {
    let size = payload.get(4..12).and_then(|size| size.first_chunk::<8>()).context("no size")?;
    Ok(usize::try_from(u64::from_be_bytes(*size))?)
}

pub(super) fn put_ack(out: &mut Vec<u8>, channel: u16, tag: u64, is_multiple: bool) {
    put_raw(out, METHOD, channel, &[&ACK, &tag.to_be_bytes(), &[u8::from(is_multiple)]]);
}

pub(super) fn put_nack(out: &mut Vec<u8>, channel: u16, tag: u64, is_multiple: bool) {
    put_raw(out, METHOD, channel, &[&NACK, &tag.to_be_bytes(), &[u8::from(is_multiple)]]);
}

/// A content header that has all properties by its flags, and none by its bytes.
pub(super) fn put_unreadable_header(out: &mut Vec<u8>, channel: u16) {
    put_raw(out, HEADER, channel, &[&[0, 60, 0, 0], &[0; 8], &[0xFF, 0xFE]]);
}

fn put_raw(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend(channel.to_be_bytes());
    out.extend(u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(END);
}

pub(super) fn put(out: &mut Vec<u8>, frame: &AMQPFrame) -> Result<()> {
    let bytes = cookie_factory::gen_simple(gen_frame(frame), Vec::new());
    out.extend(bytes.map_err(|error| anyhow!("{frame} cannot be written: {error:?}"))?);
    Ok(())
}
