//! Frames of RabbitMQ's stream protocol, as bytes (`deps/rabbitmq_stream/docs/PROTOCOL.adoc`, and where that
//! and the server differ, the server: `rabbit_stream_core.erl`).
//!
//! A frame is its size, a key, a version, and what the key says. A request has a number (the correlation id),
//! which its answer has too. Integers are big-endian; a text is behind a length of two bytes, a list behind a
//! count of four.

use crate::core::octets::Octets;

/// Keys of frames.
pub(super) mod key {
    pub(in crate::rabbitmq::stream) const DECLARE_PUBLISHER: u16 = 1;
    pub(in crate::rabbitmq::stream) const PUBLISH: u16 = 2;
    pub(in crate::rabbitmq::stream) const PUBLISH_CONFIRM: u16 = 3;
    pub(in crate::rabbitmq::stream) const PUBLISH_ERROR: u16 = 4;
    pub(in crate::rabbitmq::stream) const QUERY_PUBLISHER_SEQUENCE: u16 = 5;
    pub(in crate::rabbitmq::stream) const METADATA: u16 = 15;
    pub(in crate::rabbitmq::stream) const METADATA_UPDATE: u16 = 16;
    pub(in crate::rabbitmq::stream) const PEER_PROPERTIES: u16 = 17;
    pub(in crate::rabbitmq::stream) const SASL_HANDSHAKE: u16 = 18;
    pub(in crate::rabbitmq::stream) const SASL_AUTHENTICATE: u16 = 19;
    pub(in crate::rabbitmq::stream) const TUNE: u16 = 20;
    pub(in crate::rabbitmq::stream) const OPEN: u16 = 21;
    pub(in crate::rabbitmq::stream) const CLOSE: u16 = 22;
    pub(in crate::rabbitmq::stream) const HEARTBEAT: u16 = 23;
    pub(in crate::rabbitmq::stream) const PARTITIONS: u16 = 25;
    /// An answer's key is its request's with this bit.
    pub(in crate::rabbitmq::stream) const ANSWER: u16 = 0x8000;
}

/// Codes of answers.
pub(super) mod code {
    pub(in crate::rabbitmq::stream) const OK: u16 = 1;
    pub(in crate::rabbitmq::stream) const NO_STREAM: u16 = 2;
    pub(in crate::rabbitmq::stream) const NOT_AVAILABLE: u16 = 6;
    pub(in crate::rabbitmq::stream) const NO_VHOST: u16 = 12;
    pub(in crate::rabbitmq::stream) const REFUSED: u16 = 16;
    pub(in crate::rabbitmq::stream) const PRECONDITION: u16 = 17;
}

/// What an answer's code means.
pub(super) fn words(code: u16) -> &'static str {
    match code {
        1 => "ok",
        2 => "the stream does not exist",
        6 => "the stream is not available",
        7 => "the SASL mechanism is not supported",
        8 => "the login failed",
        9 => "SASL error",
        10 => "SASL challenge",
        11 => "this user may log in from the broker's own machine alone",
        12 => "no access to the virtual host, or there is none of that name",
        13 => "the frame is not known",
        14 => "the frame is too large",
        15 => "internal error",
        16 => "access refused",
        17 => "a precondition failed",
        18 => "the publisher does not exist",
        19 => "no offset",
        _ => "a code that is not known",
    }
}

const VERSION: u16 = 1;
/// Of a publish whose messages may have a filter value.
const FILTERED: u16 = 2;
/// Larger ones are none: a broker's `stream.frame_max` is 1 MiB as installed.
const LARGEST: usize = 64 << 20;
const SIZE_BYTES: usize = 4;
/// Key, version, publisher and count of a publish.
const PUBLISH_HEAD: usize = 9;
/// Publishing id and length before a message.
const ENTRY_HEAD: usize = 12;
/// The length of a filter value.
const FILTER_HEAD: usize = 2;
/// What a frame has besides the one message in it, and its filter value.
pub(super) const OVERHEAD: usize = PUBLISH_HEAD + ENTRY_HEAD + FILTER_HEAD;

/// A frame cannot be so large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Writes a frame of this key, and what `write` puts into it.
pub(super) fn frame(out: &mut Vec<u8>, key: u16, write: impl FnOnce(&mut Vec<u8>)) {
    frame_of(out, (key, VERSION), write);
}

fn frame_of(out: &mut Vec<u8>, (key, version): (u16, u16), write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; SIZE_BYTES]);
    out.extend_from_slice(&key.to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    write(out);
    let size = u32::try_from(out.len() - at - SIZE_BYTES).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(at..at + SIZE_BYTES) {
        place.copy_from_slice(&size.to_be_bytes());
    }
}

/// Writes a request with this number.
pub(super) fn request(out: &mut Vec<u8>, key: u16, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    frame(out, key, |out| {
        out.extend_from_slice(&number.to_be_bytes());
        write(out);
    });
}

/// Writes a text; of one that is too long what fits, for none of ours is.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..usize::from(u16::MAX >> 1)).unwrap_or(bytes);
    let length = u16::try_from(bytes.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes names and values.
pub(super) fn pairs(out: &mut Vec<u8>, pairs: &[(&str, &str)]) {
    count(out, pairs.len());
    for (name, value) in pairs {
        text(out, name);
        text(out, value);
    }
}

/// Writes a list of texts.
pub(super) fn texts(out: &mut Vec<u8>, all: &[&str]) {
    count(out, all.len());
    all.iter().for_each(|one| text(out, one));
}

/// Writes bytes behind a length of four; `None`: -1, which is not the same as none.
pub(super) fn bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            count(out, bytes.len());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

fn count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).unwrap_or(0);
    out.extend_from_slice(&count.to_be_bytes());
}

/// A publish that is being written: as many messages as fit.
pub(super) struct Publish {
    at: usize,
    count: u32,
    frame_max: usize,
    has_filters: bool,
}

impl Publish {
    /// Opens one for this publisher. With `has_filters` its messages may have filter values, which RabbitMQ 3.13 is the
    /// first to read.
    pub(super) fn open(
        out: &mut Vec<u8>,
        publisher: u8,
        frame_max: usize,
        has_filters: bool,
    ) -> Self {
        let at = out.len();
        let version = if has_filters { FILTERED } else { VERSION };
        frame_of(out, (key::PUBLISH, version), |out| {
            out.push(publisher);
            out.extend_from_slice(&[0; 4]);
        });
        Self { at, count: 0, frame_max, has_filters }
    }

    /// No message is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a message of so many bytes, its filter value among them, fits behind those that are there.
    pub(super) fn has_room(&self, out: &[u8], bytes: usize) -> bool {
        let size = out.len() - self.at - SIZE_BYTES;
        let head = if self.has_filters { ENTRY_HEAD + FILTER_HEAD } else { ENTRY_HEAD };
        size.saturating_add(head).saturating_add(bytes) <= self.frame_max
    }

    /// Adds a message of these parts, with its filter value where there is one and the frame has them.
    ///
    /// # Errors
    /// It does not fit: nothing is written.
    pub(super) fn add(
        &mut self,
        out: &mut Vec<u8>,
        id: u64,
        filter_value: Option<&[u8]>,
        parts: [&[u8]; 2],
    ) -> Result<(), TooLarge> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        // Its highest bit tells a batch from a message.
        let length = u32::try_from(bytes).ok().filter(|length| *length <= u32::MAX >> 1);
        let filter_value = filter_value.filter(|_| self.has_filters);
        let with_filter = bytes + filter_value.map_or(0, <[u8]>::len);
        let length = length.filter(|_| self.has_room(out, with_filter)).ok_or(TooLarge)?;
        out.extend_from_slice(&id.to_be_bytes());
        if self.has_filters {
            let length = filter_value.and_then(|value| i16::try_from(value.len()).ok());
            out.extend_from_slice(&length.unwrap_or(-1).to_be_bytes());
            out.extend_from_slice(filter_value.filter(|_| length.is_some()).unwrap_or_default());
        }
        out.extend_from_slice(&length.to_be_bytes());
        parts.iter().for_each(|part| out.extend_from_slice(part));
        self.count += 1;
        Ok(())
    }

    /// Ends it; without a message there is no frame.
    pub(super) fn close(self, out: &mut Vec<u8>) {
        if self.count == 0 {
            return out.truncate(self.at);
        }
        let size = u32::try_from(out.len() - self.at - SIZE_BYTES).unwrap_or(u32::MAX);
        let mut put = |at: usize, value: u32| {
            if let Some(place) = out.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_be_bytes());
            }
        };
        put(self.at, size);
        put(self.at + SIZE_BYTES + PUBLISH_HEAD - 4, self.count);
    }
}

/// What bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// A frame without its size, and how many bytes it takes with it.
    Whole(&'a [u8], usize),
    /// A frame of which more is to come.
    Part,
    /// None.
    None,
}

/// Finds the first frame.
pub(super) fn first(bytes: &[u8]) -> First<'_> {
    let Some((size, rest)) = bytes.split_first_chunk::<SIZE_BYTES>() else { return First::Part };
    let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
    if !(4..=LARGEST).contains(&size) {
        return First::None;
    }
    match rest.get(..size) {
        Some(frame) => First::Whole(frame, SIZE_BYTES + size),
        None => First::Part,
    }
}

/// A frame of the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The answer to a request: its key, its number, a code, and what else it says.
    Answer {
        key: u16,
        number: u32,
        code: u16,
        rest: &'a [u8],
    },
    /// The answer to a question for streams, which has no code.
    Metadata {
        number: u32,
        rest: &'a [u8],
    },
    /// Messages of this publisher are in the stream.
    Confirm {
        publisher: u8,
        ids: Ids<'a>,
    },
    /// Messages of this publisher were refused: the first, and why.
    PublishError {
        id: u64,
        code: u16,
    },
    /// A stream is not where it was.
    MetadataUpdate {
        code: u16,
        stream: String,
    },
    Tune {
        frame_max: u32,
        heartbeat: u32,
    },
    /// The broker closes the connection.
    Close {
        number: u32,
        code: u16,
        reason: String,
    },
    Heartbeat,
    /// One that a publisher does not need.
    Other,
}

/// Publishing ids within a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids<'a>(&'a [u8]);

impl Ids<'_> {
    /// Each of them.
    pub(super) fn each(&self) -> impl Iterator<Item = u64> {
        self.0.as_chunks::<8>().0.iter().map(|id| u64::from_be_bytes(*id))
    }
}

/// Reads a frame; `None` where it is not as its key says.
pub(super) fn read(frame: &[u8]) -> Option<Frame<'_>> {
    let mut rest = Octets(frame);
    let (of, _version) = (rest.u16()?, rest.u16()?);
    Some(match of {
        key::PUBLISH_CONFIRM => {
            let (publisher, count) = (rest.u8()?, usize::try_from(rest.u32()?).ok()?);
            let ids = rest.take(count.checked_mul(8)?)?;
            Frame::Confirm { publisher, ids: Ids(ids) }
        }
        key::PUBLISH_ERROR => {
            let (_publisher, _count) = (rest.u8()?, rest.u32()?);
            Frame::PublishError { id: rest.u64()?, code: rest.u16()? }
        }
        key::METADATA_UPDATE => {
            let code = rest.u16()?;
            Frame::MetadataUpdate { code, stream: rest.text()? }
        }
        key::TUNE => Frame::Tune { frame_max: rest.u32()?, heartbeat: rest.u32()? },
        key::CLOSE => {
            let (number, code) = (rest.u32()?, rest.u16()?);
            Frame::Close { number, code, reason: rest.text()? }
        }
        key::HEARTBEAT => Frame::Heartbeat,
        of if of == key::METADATA | key::ANSWER => {
            Frame::Metadata { number: rest.u32()?, rest: rest.0 }
        }
        of if of & key::ANSWER != 0 => {
            let (number, code) = (rest.u32()?, rest.u16()?);
            Frame::Answer { key: of & !key::ANSWER, number, code, rest: rest.0 }
        }
        _ => Frame::Other,
    })
}

/// Where a broker can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Reads a list of texts: the mechanisms of a SASL handshake, the partitions of a super stream.
pub(super) fn listed(bytes: &[u8]) -> Option<Vec<String>> {
    let mut rest = Octets(bytes);
    (0..rest.u32()?).map(|_| rest.text()).collect()
}

/// Reads where the broker says that it is, from its answer to an open; `None` where it does not say.
pub(super) fn advertised(bytes: &[u8]) -> Option<Place> {
    let mut rest = Octets(bytes);
    let (mut host, mut port) = (None, None);
    for _ in 0..rest.u32()? {
        let (name, value) = (rest.text()?, rest.text()?);
        match name.as_str() {
            "advertised_host" => host = Some(value),
            "advertised_port" => port = value.parse().ok(),
            _ => {}
        }
    }
    Some(Place { host: host?, port: port? })
}

/// Reads a value from names and values: the version among what a broker says of itself.
pub(super) fn value(bytes: &[u8], wanted: &str) -> Option<String> {
    let mut rest = Octets(bytes);
    for _ in 0..rest.u32()? {
        let (name, value) = (rest.text()?, rest.text()?);
        if name == wanted {
            return Some(value);
        }
    }
    None
}

/// Reads what became of the question for one stream: a code, and where its leader is, if it has one.
pub(super) fn leader(bytes: &[u8]) -> Option<(u16, Option<Place>)> {
    let mut rest = Octets(bytes);
    let mut places = Vec::new();
    for _ in 0..rest.u32()? {
        let (reference, host) = (rest.u16()?, rest.text()?);
        let port = u16::try_from(rest.u32()?).ok()?;
        places.push((reference, Place { host, port }));
    }
    // The answer is about the one that was asked for.
    (rest.u32()? > 0).then_some(())?;
    let (_name, code, leader) = (rest.text()?, rest.u16()?, rest.u16()?);
    let place = places.into_iter().find(|(reference, _)| *reference == leader);
    Some((code, place.map(|(_, place)| place)))
}

/// Reads the highest publishing id of a reference; 0 where it has none.
pub(super) fn sequence(bytes: &[u8]) -> Option<u64> {
    Octets(bytes).u64()
}

/// Reads what else an answer says as a broker would have sent it, whatever it is: for the fuzzer.
pub(super) fn read_anything(bytes: &[u8]) {
    let place = advertised(bytes).into_iter();
    let places = place.chain(leader(bytes).and_then(|(_, place)| place));
    assert!(places.into_iter().all(|place| place.host.len() <= 3 * bytes.len()));
    let texts = listed(bytes).unwrap_or_default();
    assert!(texts.len() <= bytes.len());
    drop((value(bytes, "version"), sequence(bytes)));
}

impl Octets<'_> {
    /// A text; empty where there is none (-1).
    fn text(&mut self) -> Option<String> {
        let length = i16::from_be_bytes(self.array()?);
        let bytes = self.take(usize::try_from(length.max(0)).ok()?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Publisher, id, filter value, and the message.
    type Published = (u8, u64, Option<Vec<u8>>, Vec<u8>);

    /// What a broker would read of a publish: its publisher, and each message with its id.
    fn published(mut bytes: &[u8]) -> Vec<Published> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let First::Whole(frame, taken) = first(bytes) else { panic!("half a frame") };
            bytes = &bytes[taken..];
            let mut rest = Octets(frame);
            assert_eq!(rest.u16(), Some(key::PUBLISH));
            let version = rest.u16().unwrap();
            let (publisher, count) = (rest.u8().unwrap(), rest.u32().unwrap());
            assert!(count > 0);
            for _ in 0..count {
                let id = rest.u64().unwrap();
                let filter =
                    (version == FILTERED).then(|| i16::from_be_bytes(rest.array().unwrap()));
                let filter = filter.and_then(|length| usize::try_from(length).ok());
                let filter = filter.map(|length| rest.take(length).unwrap().to_vec());
                let length = rest.u32().unwrap();
                all.push((publisher, id, filter, rest.take(length as usize).unwrap().to_vec()));
            }
            assert!(rest.0.is_empty());
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_published_is_what_a_broker_reads(
            messages in prop::collection::vec(
                (any::<u64>(), prop::option::of("[a-z]{1,20}"), "[a-z]{0,30}", "[a-z]{0,60}"), 0..50),
            frame_max in 140..400_usize,
            has_filters in any::<bool>(),
        ) {
            let mut out = Vec::new();
            let mut publish = Publish::open(&mut out, 7, frame_max, has_filters);
            for (id, filter, head, body) in &messages {
                let parts = [head.as_bytes(), body.as_bytes()];
                let filter = filter.as_ref().map(|it| it.as_bytes());
                if publish.add(&mut out, *id, filter, parts).is_err() {
                    publish.close(&mut out);
                    publish = Publish::open(&mut out, 7, frame_max, has_filters);
                    prop_assert_eq!(publish.add(&mut out, *id, filter, parts), Ok(()));
                }
            }
            publish.close(&mut out);
            let mut rest = out.as_slice();
            while let First::Whole(frame, taken) = first(rest) {
                prop_assert!(frame.len() <= frame_max);
                rest = &rest[taken..];
            }
            let expected: Vec<_> = messages
                .into_iter()
                .map(|(id, filter, head, body)| (7, id, filter.filter(|_| has_filters).map(String::into_bytes), [head.into_bytes(), body.into_bytes()].concat()))
                .collect();
            prop_assert_eq!(published(&out), expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            all_of(&bytes);
        }

        #[test]
        fn a_frame_of_any_key_is_read_or_refused(
            key in prop_oneof![0..40_u16, (0..40_u16).prop_map(|key| key | key::ANSWER)],
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..80),
        ) {
            let mut out = Vec::new();
            frame(&mut out, key, |out| out.extend_from_slice(&bytes));
            all_of(&out);
        }
    }

    fn all_of(bytes: &[u8]) {
        if let First::Whole(frame, taken) = first(bytes) {
            assert!(taken <= bytes.len());
            let rest = match read(frame) {
                Some(Frame::Confirm { ids, .. }) => {
                    return assert!(ids.each().count() * 8 < bytes.len());
                }
                Some(Frame::Answer { rest, .. } | Frame::Metadata { rest, .. }) => rest,
                _ => return,
            };
            let _ = (listed(rest), advertised(rest), leader(rest), sequence(rest), value(rest, ""));
        }
    }

    #[test]
    fn the_leader_is_found() {
        let mut out = Vec::new();
        count(&mut out, 2);
        for (reference, host) in [(0_u16, "a"), (1, "b")] {
            out.extend_from_slice(&reference.to_be_bytes());
            text(&mut out, host);
            out.extend_from_slice(&5552_u32.to_be_bytes());
        }
        count(&mut out, 1);
        text(&mut out, "orders");
        out.extend_from_slice(&code::OK.to_be_bytes());
        out.extend_from_slice(&1_u16.to_be_bytes());
        count(&mut out, 0);
        let place = Place { host: "b".to_owned(), port: 5552 };
        assert_eq!(leader(&out), Some((code::OK, Some(place))));
        assert_eq!(leader(&out[..out.len() - 7]), None, "cut off");
    }
}
