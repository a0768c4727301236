//! Messages of the server, out of the bytes of a connection.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Fault, Kind, Peer};

/// Bytes read at once. A row stays in the memory of what was read with it for as long as it is
/// in flight, so more is not better.
const CHUNK: usize = 64 * 1024;
/// With less room than this a new chunk is begun: a read of a few bytes is a system call wasted.
const ROOM: usize = 8 * 1024;
/// Type and length.
const HEAD: usize = 5;
/// The server's own limit of one value, and so of one message (`MaxAllocSize`, memutils.h).
const LONGEST: usize = 0x3fff_ffff;

/// One message of the server.
#[derive(Debug)]
pub(super) struct Frame {
    /// Its type.
    pub(super) tag: u8,
    /// What follows the length: a part of what was read, not copied.
    pub(super) body: Bytes,
}

/// Reads messages.
#[derive(Debug)]
pub(super) struct Frames<R> {
    reader: R,
    read: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, read: BytesMut::new() }
    }

    /// What is read from, and what was read and not taken yet.
    pub(super) fn into_parts(self) -> (R, BytesMut) {
        (self.reader, self.read)
    }

    pub(super) fn of_parts(reader: R, read: BytesMut) -> Self {
        Self { reader, read }
    }

    pub(super) fn reader_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    /// The next message. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The connection has ended, or its bytes are no valid message.
    pub(super) async fn next(&mut self) -> Result<Frame, Fault> {
        loop {
            let missing = match self.take()? {
                FrameRead::Frame(frame) => return Ok(frame),
                FrameRead::Missing(bytes) => bytes,
            };
            if self.read.capacity() - self.read.len() < missing.min(ROOM) {
                self.read.reserve(missing.max(CHUNK));
            }
            let count = self.reader.read_buf(&mut self.read).await.map_err(|e| ended(&e))?;
            if count == 0 {
                return Err(ended(&"Postgres has hung up"));
            }
        }
    }

    fn take(&mut self) -> Result<FrameRead, Fault> {
        let Some((&[tag, a, b, c, d], _)) = self.read.split_first_chunk::<HEAD>() else {
            return Ok(FrameRead::Missing(ROOM));
        };
        // The length counts itself.
        let length = usize::try_from(i32::from_be_bytes([a, b, c, d])).unwrap_or(0);
        if !(4..=LONGEST).contains(&length) {
            return Err(ended(&format!("invalid message length {length}")));
        }
        let whole = length + 1;
        if self.read.len() < whole {
            return Ok(FrameRead::Missing(whole - self.read.len()));
        }
        let mut body = self.read.split_to(whole).freeze();
        if whole > CHUNK {
            // It had memory made for it, which is not kept for those that follow.
            self.read = BytesMut::from(self.read.as_ref());
        }
        body.advance(HEAD);
        Ok(FrameRead::Frame(Frame { tag, body }))
    }
}

enum FrameRead {
    Frame(Frame),
    /// So many bytes at least.
    Missing(usize),
}

/// The connection cannot be read from any more.
pub(super) fn ended(why: &impl std::fmt::Display) -> Fault {
    let what = format!("the replication stream has ended: {why}");
    Fault::of(Kind::Closed, Peer::Postgres, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives out bytes in the given portions.
    struct Portions(Vec<Vec<u8>>);

    impl AsyncRead for Portions {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            let Some(first) = self.0.first_mut() else { return std::task::Poll::Ready(Ok(())) };
            if first.is_empty() {
                self.0.remove(0);
                cx.waker().wake_by_ref();
                return std::task::Poll::Pending;
            }
            let count = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..count]);
            first.drain(..count);
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn wire(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (tag, body) in frames {
            wire.push(*tag);
            wire.extend(i32::try_from(body.len() + 4).unwrap().to_be_bytes());
            wire.extend(body);
        }
        wire
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 1..40),
            cuts in prop::collection::vec(1..500_usize, 1..40),
        ) {
            let mut wire = wire(&frames);
            let mut portions = Vec::new();
            for cut in cuts.iter().cycle() {
                if wire.is_empty() { break }
                let rest = wire.split_off((*cut).min(wire.len()));
                portions.push(std::mem::replace(&mut wire, rest));
            }
            let read = run(async {
                let mut reader = Frames::new(Portions(portions));
                let mut read = Vec::new();
                for _ in 0..frames.len() {
                    // A future dropped half-way loses nothing.
                    let frame = loop {
                        let polled = futures_util::poll!(std::pin::pin!(reader.next()));
                        if let std::task::Poll::Ready(frame) = polled { break frame }
                    };
                    let frame = frame.unwrap();
                    read.push((frame.tag, frame.body.to_vec()));
                }
                assert!(reader.next().await.is_err(), "and then it ends");
                read
            });
            prop_assert_eq!(read, frames);
        }
    }

    #[test]
    fn a_length_that_makes_no_sense_ends_it() {
        for length in [0, 3, -1, i32::MAX] {
            let mut wire = vec![b'd'];
            wire.extend(length.to_be_bytes());
            let fault = run(Frames::new(wire.as_slice()).next()).unwrap_err();
            assert!(fault.what.contains("invalid message length"), "{length}: {}", fault.what);
        }
    }
}
