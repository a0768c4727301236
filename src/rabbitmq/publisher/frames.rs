//! AMQP's frames, as bytes: those of a publish as they go out, and those that answer one as
//! they come in. All others are lapin's.
//!
//! lapin knows each message as three frames, three promises and a future: two thirds of what
//! an event cost. Here it is its bytes, and the broker's answer a number.
//!
//! The layout is that of AMQP 0-9-1, 2.3.5 and 4.2: type, channel, size, payload, end.

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::{AMQPClass, AMQPError, basic, channel, connection};
use bytes::Bytes;

use crate::core::message::{self, Message};
use crate::core::relay::window::Return;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT_TYPE: u8 = 8;
const END: u8 = 0xCE;

/// Type, channel and size.
const HEAD: usize = 7;
/// What a frame has around its payload.
pub(super) const OVERHEAD: usize = HEAD + 1;
/// Larger ones are none: a broker's `frame_max` is 128 KiB as installed.
const LARGEST: usize = 64 << 20;
/// What a client says first, instead of a frame.
const GREETING: &[u8] = b"AMQP";
const GREETING_BYTES: usize = 8;

const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const BASIC: u16 = 60;
const CONNECTION_CLOSE: (u16, u16) = (CONNECTION, 50);
const CONNECTION_BLOCKED: (u16, u16) = (CONNECTION, 60);
const CONNECTION_UNBLOCKED: (u16, u16) = (CONNECTION, 61);
const CHANNEL_CLOSE: (u16, u16) = (CHANNEL, 40);
const PUBLISH: (u16, u16) = (BASIC, 40);
const RETURN: (u16, u16) = (BASIC, 50);
const ACK: (u16, u16) = (BASIC, 80);
const NACK: (u16, u16) = (BASIC, 120);

/// A heartbeat.
pub(super) const HEARTBEAT: [u8; OVERHEAD] = [HEARTBEAT_TYPE, 0, 0, 0, 0, 0, 0, END];

/// A frame cannot be so large. None of a [`Message`] is: its limits come from `frame_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Writes the frames of a publish behind what is there, but for those of its body.
///
/// # Errors
/// A frame would be larger than a frame may be; nothing is written then.
pub(super) fn begin_publish(
    out: &mut Vec<u8>,
    channel: u16,
    message: &Message,
) -> Result<(), TooLarge> {
    let start = out.len();
    let outcome = write_head(out, channel, message);
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome
}

/// Writes frames of a body, until `out` holds so many bytes; returns what is left of it.
pub(super) fn publish_body(
    out: &mut Vec<u8>,
    channel: u16,
    mut body: Bytes,
    frame_max: usize,
    most_bytes: usize,
) -> Result<Bytes, TooLarge> {
    let most = frame_max.saturating_sub(OVERHEAD).max(1);
    while !body.is_empty() && out.len() < most_bytes {
        let chunk = body.split_to(body.len().min(most));
        frame(out, BODY, channel, &[&chunk])?;
    }
    Ok(body)
}

fn write_head(out: &mut Vec<u8>, channel: u16, message: &Message) -> Result<(), TooLarge> {
    let [class, method] = [PUBLISH.0, PUBLISH.1].map(u16::to_be_bytes);
    // Was an access ticket.
    let reserved = [0; 2];
    let mandatory = [u8::from(message.is_mandatory())];
    let parts = [&class[..], &method, &reserved, message.names_bytes(), &mandatory];
    frame(out, METHOD, channel, &parts)?;
    let weight = [0; 2];
    let size = (message.body.len() as u64).to_be_bytes();
    let parts = [&class[..], &weight, &size, message.properties_bytes()];
    frame(out, HEADER, channel, &parts)
}

/// A frame around a payload of these parts.
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) -> Result<(), TooLarge> {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    let size = u32::try_from(size).map_err(|_| TooLarge)?;
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&size.to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(END);
    Ok(())
}

/// How many bytes at the start of `bytes` are whole frames, or the greeting before them.
/// What cannot be decided counts as such: it is not for us to hold it back.
pub(super) fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..)
        && !rest.is_empty()
    {
        let len = if rest.starts_with(GREETING) || GREETING.starts_with(rest) {
            Some(GREETING_BYTES)
        } else {
            match Frame::first(rest) {
                First::Whole(frame) => Some(frame.bytes.len()),
                First::Part => None,
                First::None => return bytes.len(),
            }
        };
        match len {
            Some(len) if len <= rest.len() => at += len,
            _ => break,
        }
    }
    at
}

/// Sorts bytes as a broker would have sent them, whatever they are and however they come: for the fuzzer.
pub(crate) fn read_anything(bytes: &[u8]) {
    let portion = usize::from(bytes.first().copied().unwrap_or_default()) + 1;
    let (mut sorter, mut sorted, mut waiting) =
        (Sorter::default(), SortedFrames::default(), Vec::new());
    sorter.take_over(1);
    for part in bytes.chunks(portion) {
        waiting.extend_from_slice(part);
        let done = sorter.sort(&waiting, &mut sorted);
        assert!(
            done <= waiting.len() && whole(&waiting) <= waiting.len().max(GREETING_BYTES),
            "bytes that did not come"
        );
        waiting.drain(..done);
    }
    assert!(sorted.other.len() <= bytes.len(), "lapin is given more than came");
}

/// A frame within its bytes.
#[derive(Debug, Clone, Copy)]
struct Frame<'a> {
    kind: u8,
    channel: u16,
    payload: &'a [u8],
    /// With head and end.
    bytes: &'a [u8],
}

/// What bytes begin with.
enum First<'a> {
    Whole(Frame<'a>),
    /// A frame of which more is to come.
    Part,
    /// None.
    None,
}

impl<'a> Frame<'a> {
    fn first(bytes: &'a [u8]) -> First<'a> {
        let Some((&[kind, c0, c1, s0, s1, s2, s3], _)) = bytes.split_first_chunk::<HEAD>() else {
            return match bytes.first() {
                Some(&(METHOD | HEADER | BODY | HEARTBEAT_TYPE)) | None => First::Part,
                Some(_) => First::None,
            };
        };
        let size = usize::try_from(u32::from_be_bytes([s0, s1, s2, s3])).unwrap_or(usize::MAX);
        if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT_TYPE) || size > LARGEST {
            return First::None;
        }
        let Some(bytes) = bytes.get(..size + OVERHEAD) else { return First::Part };
        let (payload, end) = bytes.split_at(HEAD + size);
        match payload.get(HEAD..) {
            Some(payload) if end == [END] => {
                let channel = u16::from_be_bytes([c0, c1]);
                First::Whole(Frame { kind, channel, payload, bytes })
            }
            _ => First::None,
        }
    }

    /// Class and number of a method, and its arguments.
    fn method(&self) -> Option<((u16, u16), &'a [u8])> {
        let (&[c0, c1, m0, m1], arguments) = self.payload.split_first_chunk::<4>()?;
        let method = (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1]));
        (self.kind == METHOD).then_some((method, arguments))
    }

    fn parsed(&self) -> Option<AMQPFrame> {
        parse_frame(self.bytes).ok().map(|(_, frame)| frame)
    }
}

/// What the broker says of what was published, in the order in which it says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BrokerAnswer {
    /// An ack, or else a nack; of the message of that delivery tag, or of all up to it.
    Confirm {
        tag: u64,
        is_multiple: bool,
        is_ack: bool,
    },
    Return(Return),
    /// It said something about a message that cannot be read: nobody knows what was delivered.
    Unreadable(&'static str),
}

/// The broker closed the channel or the connection.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    /// Its channel alone; the connection lives.
    pub(super) is_channel: bool,
    /// Why: an error of AMQP, or its words.
    pub(super) why: Result<AMQPError, String>,
}

/// A return is a method, a header and a body.
#[derive(Debug)]
enum Content {
    Header { why: String },
    Body { left: u64 },
}

/// Tells the answers to what was published on one channel from everything else.
#[derive(Debug, Default)]
pub(super) struct Sorter {
    /// Nothing is ours before it is known.
    channel: Option<u16>,
    content: Option<Content>,
    /// What came is not AMQP: lapin shall judge.
    is_lost: bool,
}

/// What [`Sorter::sort`] finds.
#[derive(Debug, Default)]
pub(super) struct SortedFrames {
    pub(super) said: Vec<BrokerAnswer>,
    /// Bytes for lapin.
    pub(super) other: Vec<u8>,
    /// The broker closed our channel, or the connection. It is lapin that answers.
    pub(super) closing: Option<Closing>,
    /// The broker reads nothing more for now, and has said so.
    pub(super) is_blocked: bool,
}

impl Sorter {
    /// From here on the answers on this channel are ours, and those on none before it.
    pub(super) fn take_over(&mut self, channel: u16) {
        (self.channel, self.content) = (Some(channel), None);
    }

    /// Sorts the whole frames in `bytes`; returns how many bytes these were.
    pub(super) fn sort(&mut self, bytes: &[u8], sorted: &mut SortedFrames) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..)
            && !rest.is_empty()
        {
            let first = if self.is_lost { First::None } else { Frame::first(rest) };
            match first {
                First::Whole(frame) => {
                    at += frame.bytes.len();
                    if !self.is_ours(frame, sorted) {
                        sorted.other.extend_from_slice(frame.bytes);
                    }
                }
                First::Part => break,
                First::None => {
                    self.is_lost = true;
                    sorted.other.extend_from_slice(rest);
                    return bytes.len();
                }
            }
        }
        at
    }

    fn is_ours(&mut self, frame: Frame<'_>, sorted: &mut SortedFrames) -> bool {
        let is_on_channel = self.channel == Some(frame.channel);
        match frame.method() {
            Some((CONNECTION_CLOSE, _)) if frame.channel == 0 => {
                sorted.closing = frame.parsed().and_then(closing);
                false
            }
            Some((method @ (CONNECTION_BLOCKED | CONNECTION_UNBLOCKED), _))
                if frame.channel == 0 =>
            {
                sorted.is_blocked = method == CONNECTION_BLOCKED;
                false
            }
            _ if !is_on_channel => false,
            Some((CHANNEL_CLOSE, _)) => {
                sorted.closing = frame.parsed().and_then(closing);
                // Nothing of it is waited for any more, least of all the rest of a return.
                (self.channel, self.content) = (None, None);
                false
            }
            Some((method @ (ACK | NACK), arguments)) => {
                let Some((tag, &[flags, ..])) = arguments.split_first_chunk::<8>() else {
                    sorted.said.push(BrokerAnswer::Unreadable("a confirm"));
                    return true;
                };
                let tag = u64::from_be_bytes(*tag);
                let is_multiple = flags & 1 == 1;
                sorted.said.push(BrokerAnswer::Confirm { tag, is_multiple, is_ack: method == ACK });
                true
            }
            Some((RETURN, _)) => match frame.parsed() {
                Some(AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Return(it)))) => {
                    let why = format!("{} {}", it.reply_code, it.reply_text);
                    self.content = Some(Content::Header { why });
                    true
                }
                _ => {
                    sorted.said.push(BrokerAnswer::Unreadable("a return"));
                    true
                }
            },
            Some(_) => false,
            None => self.content(frame, sorted),
        }
    }

    /// Of a returned message only the id is of use: the body is our own.
    fn content(&mut self, frame: Frame<'_>, sorted: &mut SortedFrames) -> bool {
        let left = match (self.content.take(), frame.kind) {
            (Some(Content::Header { why }), HEADER) => {
                let Some(AMQPFrame::Header(_, header)) = frame.parsed() else {
                    sorted.said.push(BrokerAnswer::Unreadable("a returned message"));
                    return true;
                };
                let message_id = header.properties.message_id().as_ref();
                let message_id = message_id.map_or_else(String::new, |id| id.as_str().to_owned());
                let position = header.properties.headers().as_ref().and_then(message::position_in);
                sorted.said.push(BrokerAnswer::Return(Return { message_id, position, why }));
                header.body_size
            }
            (Some(Content::Body { left }), BODY) => left.saturating_sub(frame.payload.len() as u64),
            // The relay consumes nothing: no other message comes on its channel.
            _ => {
                sorted.said.push(BrokerAnswer::Unreadable("a message that is not a return"));
                return true;
            }
        };
        self.content = (left > 0).then_some(Content::Body { left });
        true
    }
}

fn closing(frame: AMQPFrame) -> Option<Closing> {
    let AMQPFrame::Method(_, method) = frame else { return None };
    let is_channel = matches!(method, AMQPClass::Channel(_));
    let (error, words) = match method {
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            let words = format!("{} {}", close.reply_code, close.reply_text);
            (AMQPError::try_from(close).ok(), words)
        }
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            let words = format!("{} {}", close.reply_code, close.reply_text);
            (AMQPError::try_from(close).ok(), words)
        }
        _ => return None,
    };
    Some(Closing { is_channel, why: error.ok_or(words) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::gen_frame;
    use amq_protocol::protocol::basic::AMQPProperties;
    use amq_protocol::types::{AMQPValue, FieldTable};
    use bytes::Bytes;
    use proptest::prelude::*;

    const OURS: u16 = 1;

    fn bytes_of(frame: &AMQPFrame) -> Vec<u8> {
        gen_frame(frame)(Vec::new().into()).unwrap().into_inner().0
    }

    fn method(channel: u16, method: basic::AMQPMethod) -> AMQPFrame {
        AMQPFrame::Method(channel, AMQPClass::Basic(method))
    }

    fn ack(tag: u64, multiple: bool) -> AMQPFrame {
        method(OURS, basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple }))
    }

    fn nack(tag: u64) -> AMQPFrame {
        let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: true };
        method(OURS, basic::AMQPMethod::Nack(nack))
    }

    /// The frames of a returned message whose body comes in chunks of 100.
    fn returned(id: &str, body: usize) -> Vec<AMQPFrame> {
        let it = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "outbox".into(),
            routing_key: "nobody".into(),
        };
        let properties = AMQPProperties::default().with_message_id(id.into());
        let header = amq_protocol::frame::AMQPContentHeader {
            class_id: 60,
            body_size: body as u64,
            properties,
        };
        let mut frames =
            vec![method(OURS, basic::AMQPMethod::Return(it)), AMQPFrame::Header(OURS, header)];
        frames.extend(vec![0; body].chunks(100).map(|chunk| AMQPFrame::Body(OURS, chunk.to_vec())));
        frames
    }

    fn confirm(tag: u64, is_multiple: bool, is_ack: bool) -> BrokerAnswer {
        BrokerAnswer::Confirm { tag, is_multiple, is_ack }
    }

    fn no_route(id: &str) -> BrokerAnswer {
        let (message_id, position) = (id.to_owned(), None);
        BrokerAnswer::Return(Return { message_id, position, why: "312 NO_ROUTE".to_owned() })
    }

    /// Another channel's, the connection's, and a return with a body that looks like an ack.
    fn stream() -> (Vec<u8>, Vec<BrokerAnswer>, Vec<u8>) {
        let other =
            method(2, basic::AMQPMethod::Ack(basic::Ack { delivery_tag: 7, multiple: true }));
        let lapins = [AMQPFrame::Heartbeat, other, AMQPFrame::Body(2, bytes_of(&ack(3, false)))];
        let mut ours = vec![ack(1, false)];
        ours.extend(returned("a", 250));
        ours.extend([ack(2, true), nack(3)]);
        ours.extend(returned("b", 0));
        ours.push(ack(0, true));
        let (mut all, mut for_lapin) = (Vec::new(), Vec::new());
        for (at, frame) in ours.iter().enumerate() {
            all.extend(bytes_of(frame));
            if let Some(frame) = lapins.get(at / 2).filter(|_| at % 2 == 0) {
                all.extend(bytes_of(frame));
                for_lapin.extend(bytes_of(frame));
            }
        }
        let said = vec![
            confirm(1, false, true),
            no_route("a"),
            confirm(2, true, true),
            confirm(3, false, false),
            no_route("b"),
            confirm(0, true, true),
        ];
        (all, said, for_lapin)
    }

    fn sorter() -> Sorter {
        let mut sorter = Sorter::default();
        sorter.take_over(OURS);
        sorter
    }

    /// Sorts what comes in pieces that end at `cuts`.
    fn sorted(bytes: &[u8], cuts: &[usize]) -> SortedFrames {
        let (mut sorter, mut sorted) = (sorter(), SortedFrames::default());
        let mut from = 0;
        for to in cuts.iter().copied().chain([bytes.len()]) {
            from += sorter.sort(&bytes[from..to.max(from)], &mut sorted);
        }
        assert_eq!(from, bytes.len());
        sorted
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_each_goes_where_it_belongs(
            mut cuts in prop::collection::vec(0..600usize, 0..20)
        ) {
            let (bytes, said, for_lapin) = stream();
            cuts.retain(|cut| *cut < bytes.len());
            cuts.sort_unstable();
            let sorted = sorted(&bytes, &cuts);
            prop_assert_eq!(sorted.said, said);
            prop_assert_eq!(sorted.other, for_lapin);
            prop_assert!(sorted.closing.is_none());
        }

        #[test]
        fn lapin_is_cut_between_frames_only(cut in 0..2_000usize) {
            let mut bytes = b"AMQP\0\0\x09\x01".to_vec();
            let mut ends = vec![0, bytes.len()];
            for frame in [AMQPFrame::Heartbeat, ack(1, true), AMQPFrame::Body(3, vec![206; 900])] {
                bytes.extend(bytes_of(&frame));
                ends.push(bytes.len());
            }
            let part = &bytes[..cut.min(bytes.len())];
            let last = ends.iter().copied().filter(|end| *end <= part.len()).max();
            prop_assert_eq!(Some(whole(part)), last);
        }

        #[test]
        fn any_bytes_are_sorted_or_left_to_lapin(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = SortedFrames::default();
            let taken = sorter().sort(&bytes, &mut out);
            prop_assert!(taken <= bytes.len() && out.other.len() <= taken);
        }
    }

    #[test]
    fn before_the_channel_is_known_all_is_lapins() {
        let bytes = bytes_of(&ack(1, false));
        let mut out = SortedFrames::default();
        Sorter::default().sort(&bytes, &mut out);
        assert_eq!((out.said.len(), out.other), (0, bytes));
    }

    #[test]
    fn what_is_no_amqp_goes_to_lapin_as_it_is() {
        let mut out = SortedFrames::default();
        let mut sorter = sorter();
        let greeting = b"AMQP\0\0\x09\x01HTTP/1.1 400";
        assert_eq!(sorter.sort(greeting, &mut out), greeting.len());
        let ack = bytes_of(&ack(1, false));
        sorter.sort(&ack, &mut out);
        assert!(out.said.is_empty(), "nothing behind it is believed");
        assert_eq!(out.other, [&greeting[..], &ack].concat());
    }

    #[test]
    fn what_is_said_of_a_message_and_cannot_be_read_is_told() {
        let frame = |kind: u8, payload: &[u8]| {
            let mut bytes = vec![kind];
            bytes.extend(OURS.to_be_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
            bytes.extend(payload);
            bytes.push(END);
            bytes
        };
        let returns = returned("a", 0);
        let halves = [bytes_of(&returns[0]), frame(HEADER, &[0, 60, 0, 0, 0xFF])].concat();
        for (bytes, what) in [
            (frame(METHOD, &[0, 60, 0, 80, 0]), "a confirm"),
            (frame(METHOD, &[0, 60, 0, 50, 0]), "a return"),
            (halves, "a returned message"),
            (frame(BODY, b"body"), "a message that is not a return"),
        ] {
            let sorted = sorted(&bytes, &[]);
            assert_eq!(sorted.said, [BrokerAnswer::Unreadable(what)]);
            assert!(sorted.other.is_empty(), "lapin is not asked");
        }
    }

    #[test]
    fn a_closed_channel_is_seen_and_left_to_lapin() {
        let close = |code, text: &str| channel::Close {
            reply_code: code,
            reply_text: text.into(),
            class_id: 60,
            method_id: 40,
        };
        let closed = |channel, close| {
            let frame = AMQPClass::Channel(channel::AMQPMethod::Close(close));
            let bytes = bytes_of(&AMQPFrame::Method(channel, frame));
            let out = sorted(&bytes, &[]);
            assert_eq!(out.other, bytes);
            out.closing
        };
        let error = closed(OURS, close(404, "NOT_FOUND")).unwrap().why.unwrap();
        assert_eq!(error.get_id(), 404);
        assert_eq!(closed(OURS, close(999, "odd")).unwrap().why.unwrap_err(), "999 odd");
        assert!(closed(2, close(404, "another channel's")).is_none());
        let forced = connection::Close {
            reply_code: 320,
            reply_text: "CONNECTION_FORCED".into(),
            class_id: 0,
            method_id: 0,
        };
        let frame = AMQPClass::Connection(connection::AMQPMethod::Close(forced));
        let out = sorted(&bytes_of(&AMQPFrame::Method(0, frame)), &[]);
        assert_eq!(out.closing.unwrap().why.unwrap().get_id(), 320);
    }

    #[test]
    fn a_blocked_connection_is_seen_and_told_lapin() {
        let blocked = connection::AMQPMethod::Blocked(connection::Blocked { reason: "low".into() });
        let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
        let [blocked, unblocked] = [blocked, unblocked]
            .map(|method| bytes_of(&AMQPFrame::Method(0, AMQPClass::Connection(method))));
        let (mut sorter, mut out) = (sorter(), SortedFrames::default());
        for (bytes, is_blocked) in [(&blocked, true), (&unblocked, false)] {
            sorter.sort(bytes, &mut out);
            assert_eq!(out.is_blocked, is_blocked);
        }
        assert_eq!(out.other, [blocked, unblocked].concat());
    }

    #[test]
    fn a_publish_is_written_as_the_library_would() {
        let mut headers = FieldTable::default();
        headers.insert("aggregate_id".into(), AMQPValue::LongString("order-1".into()));
        headers.insert("pgoutbox-index".into(), AMQPValue::LongLongInt(3));
        let properties = AMQPProperties::default()
            .with_message_id("a".into())
            .with_delivery_mode(2)
            .with_headers(headers);
        for size in [0, 1, 92, 93, 500] {
            let body = Bytes::from(vec![7; size]);
            let message = Message::new("outbox", "order.paid", &properties, body).unwrap();
            let mut out = b"before".to_vec();
            begin_publish(&mut out, 9, &message).unwrap();
            // In as many steps as there are frames.
            let mut body = message.body.clone();
            while !body.is_empty() {
                let most = out.len() + 1;
                body = publish_body(&mut out, 9, body, 100, most).unwrap();
            }
            let publish = basic::Publish {
                exchange: "outbox".into(),
                routing_key: "order.paid".into(),
                mandatory: true,
                immediate: false,
            };
            let header = amq_protocol::frame::AMQPContentHeader {
                class_id: 60,
                body_size: size as u64,
                properties: properties.clone(),
            };
            let mut expected = b"before".to_vec();
            expected.extend(bytes_of(&method(9, basic::AMQPMethod::Publish(publish))));
            expected.extend(bytes_of(&AMQPFrame::Header(9, header)));
            for chunk in vec![7; size].chunks(100 - OVERHEAD) {
                expected.extend(bytes_of(&AMQPFrame::Body(9, chunk.to_vec())));
            }
            assert_eq!(out, expected, "a body of {size}");
        }
    }
}
