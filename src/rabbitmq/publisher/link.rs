//! One socket with two users: lapin, and the publisher beside it.
//!
//! lapin logs in, opens channels, sends heartbeats, says goodbye; it is given one end of a
//! pipe in place of the socket. What it writes goes out in whole frames, between those of the
//! messages; what comes in is sorted, and all that does not answer a message goes to lapin.
//! A task moves the bytes, so that lapin is served whatever the session is at.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::io::ReadBuf;

use super::frames::{self, BrokerAnswer, Closing, HEARTBEAT, SortedFrames, Sorter, whole};
use crate::core::message::Message;

/// Read at once, at most.
const READ_BYTES: usize = 64 << 10;
/// Written at once, about: what more waits, waits as messages, whose bodies are the stream's memory. So does
/// the rest of a large one.
const WRITE_BYTES: usize = 256 << 10;
/// A buffer that was larger is given back once it is empty.
const KEPT_BYTES: usize = 1 << 20;
/// lapin, which does not see the confirms, is shown this often that something came: it gives a
/// silent broker up.
const SIGN_OF_LIFE: Duration = Duration::from_millis(100);

/// What the task, lapin and the publisher share.
#[derive(Default)]
pub(super) struct Link {
    held: Mutex<LinkState>,
    /// The task that moves the bytes.
    mover: AtomicWaker,
    /// Who waits for answers.
    listener: AtomicWaker,
}

#[derive(Default)]
struct LinkState {
    /// Whole frames of lapin's for the socket.
    out: Vec<u8>,
    /// Messages for it.
    waiting: VecDeque<Message>,
    /// The rest of a body, whose frames nothing else comes between.
    body: Bytes,
    channel: u16,
    frame_max: usize,
    /// Written by lapin, not yet a whole frame.
    from_lapin: Vec<u8>,
    /// Sorted: answers for the publisher, bytes for lapin, the broker's last word.
    sorted: SortedFrames,
    sorter: Sorter,
    /// Of `sorted.other`, read by lapin.
    lapin_has: usize,
    lapin_waits: Option<Waker>,
    /// lapin is done: what is written goes out, and that is all.
    is_lapin_gone: bool,
    /// The socket is, and why; of the kind `UnexpectedEof` where the broker ended it.
    ended: Option<SocketEnd>,
}

impl LinkState {
    /// What is not written is not to be sent any more.
    fn unpublish(&mut self) {
        self.waiting.clear();
        self.body.clear();
    }
}

impl Link {
    fn held(&self) -> MutexGuard<'_, LinkState> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a message written, after those before it. Not once the broker has closed the channel:
    /// what is published on a closed one ends the connection.
    pub(super) fn publish(&self, message: Message) {
        let mut held = self.held();
        if held.ended.is_some() || held.sorted.closing.is_some() {
            return;
        }
        let was_empty = held.waiting.is_empty();
        held.waiting.push_back(message);
        drop(held);
        if was_empty {
            self.mover.wake();
        }
    }

    /// From here on the answers on this channel are the publisher's. One that was closed before is
    /// over: of its answers none is left by then, since its end comes behind them.
    pub(super) fn take_over(&self, channel: u16, frame_max: usize) {
        let mut held = self.held();
        held.sorter.take_over(channel);
        held.sorted.said.clear();
        held.unpublish();
        held.sorted.closing.take_if(|closing| closing.is_channel);
        (held.channel, held.frame_max) = (channel, frame_max);
    }

    /// Takes the answers into an empty list, which is given back for the next ones.
    pub(super) fn listen(
        &self,
        cx: &Context<'_>,
        said: &mut Vec<BrokerAnswer>,
    ) -> Poll<Option<LinkEnd>> {
        self.listener.register(cx.waker());
        let mut held = self.held();
        if !held.sorted.said.is_empty() {
            std::mem::swap(&mut held.sorted.said, said);
            return Poll::Ready(None);
        }
        if let Some(closing) = held.sorted.closing.clone() {
            return Poll::Ready(Some(LinkEnd::Closed(closing)));
        }
        match &held.ended {
            Some(ended) => Poll::Ready(Some(LinkEnd::Lost(ended.why.clone()))),
            None => Poll::Pending,
        }
    }

    fn end(&self, error: &io::Error) {
        let mut held = self.held();
        held.ended.get_or_insert_with(|| SocketEnd::of(error));
        let waker = held.lapin_waits.take();
        drop(held);
        waker.into_iter().for_each(Waker::wake);
        self.listener.wake();
    }
}

/// Why a socket ended. An IO error cannot be cloned, and what it is of must not be lost: the broker
/// refuses our certificate after the handshake.
struct SocketEnd {
    kind: io::ErrorKind,
    why: String,
    tls: Option<rustls::Error>,
}

impl SocketEnd {
    fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|below| below.downcast_ref()).cloned();
        Self { kind: error.kind(), why: error.to_string(), tls }
    }

    fn error(&self) -> io::Error {
        match &self.tls {
            Some(error) => io::Error::new(self.kind, error.clone()),
            None => io::Error::new(self.kind, self.why.clone()),
        }
    }
}

/// How it ended.
pub(super) enum LinkEnd {
    /// The broker closed the channel or the connection, and said why.
    Closed(Closing),
    /// The socket is gone.
    Lost(String),
}

/// lapin's end of the pipe.
pub(super) struct LapinEnd(pub(super) Arc<Link>);

impl futures_util::io::AsyncRead for LapinEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.0.held();
        let held = &mut *held;
        let waiting = held.sorted.other.get(held.lapin_has..).unwrap_or_default();
        if waiting.is_empty() {
            match &held.ended {
                None => {}
                Some(ended)
                    if ended.kind == io::ErrorKind::UnexpectedEof && ended.tls.is_none() =>
                {
                    return Poll::Ready(Ok(0));
                }
                Some(ended) => return Poll::Ready(Err(ended.error())),
            }
            held.lapin_waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = waiting.len().min(buffer.len());
        if let (Some(from), Some(to)) = (waiting.get(..count), buffer.get_mut(..count)) {
            to.copy_from_slice(from);
        }
        held.lapin_has += count;
        if held.lapin_has == held.sorted.other.len() {
            held.lapin_has = 0;
            empty(&mut held.sorted.other);
        }
        Poll::Ready(Ok(count))
    }
}

impl futures_util::io::AsyncWrite for LapinEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.0.held();
        if let Some(ended) = &held.ended {
            return Poll::Ready(Err(match &ended.tls {
                Some(_) => ended.error(),
                None => io::Error::new(io::ErrorKind::BrokenPipe, ended.why.clone()),
            }));
        }
        let held = &mut *held;
        held.from_lapin.extend_from_slice(bytes);
        let whole = whole(&held.from_lapin);
        held.out.extend(held.from_lapin.drain(..whole));
        self.0.mover.wake();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.held().is_lapin_gone = true;
        self.0.mover.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for LapinEnd {
    fn drop(&mut self) {
        self.0.held().is_lapin_gone = true;
        self.0.mover.wake();
    }
}

/// Moves bytes between the socket and the link, until one of them ends.
pub(super) struct Mover<S> {
    socket: S,
    link: Arc<Link>,
    /// Being written: from `written` on.
    out: Vec<u8>,
    written: usize,
    is_flushed: bool,
    /// Read and not yet sorted: `filled` bytes, less than a frame.
    read: Vec<u8>,
    filled: usize,
    last_sign: Instant,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Mover<S> {
    pub(super) fn new(socket: S, link: Arc<Link>) -> Self {
        Self {
            socket,
            link,
            out: Vec::new(),
            written: 0,
            is_flushed: true,
            read: vec![0; READ_BYTES],
            filled: 0,
            last_sign: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        if let Err(error) = std::future::poll_fn(|cx| self.poll(cx)).await {
            self.link.end(&error);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.mover.register(cx.waker());
        let was_blocked = self.is_blocked();
        // What cannot be written any more is no reason not to read why.
        let written = if was_blocked { Poll::Pending } else { self.write(cx) };
        if self.read(cx)?.is_ready() {
            let why = "the broker hung up";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
        }
        if was_blocked && !self.is_blocked() {
            cx.waker().wake_by_ref();
        }
        ready!(written)?;
        if self.is_done() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// What a broker that has blocked the connection does not read would fill the socket, which
    /// would be given up after its timeout: the broker looks dead to it. lapin writes nothing then
    /// either.
    fn is_blocked(&self) -> bool {
        self.link.held().sorted.is_blocked
    }

    fn is_done(&self) -> bool {
        let held = self.link.held();
        held.is_lapin_gone && held.out.is_empty() && held.waiting.is_empty() && held.body.is_empty()
    }

    /// Ready once nothing is left to write.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.out.len() {
                self.written = 0;
                empty(&mut self.out);
                self.fill()?;
                if self.out.is_empty() {
                    break;
                }
            }
            let rest = self.out.get(self.written..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.is_flushed = false;
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut held = self.link.held();
        let held = &mut *held;
        if held.sorted.closing.is_some() {
            held.unpublish();
        }
        if held.body.is_empty() {
            std::mem::swap(&mut held.out, &mut self.out);
        }
        let formless = |_| io::Error::other("a message has no form in AMQP");
        let (channel, frame_max) = (held.channel, held.frame_max);
        while self.out.len() < WRITE_BYTES {
            if held.body.is_empty() {
                // Between messages, however large they are: what lapin says comes in its turn.
                self.out.append(&mut held.out);
                let Some(message) = held.waiting.pop_front() else { break };
                frames::begin_publish(&mut self.out, channel, &message).map_err(formless)?;
                held.body = message.body;
            }
            let body = std::mem::take(&mut held.body);
            let rest = frames::publish_body(&mut self.out, channel, body, frame_max, WRITE_BYTES);
            held.body = rest.map_err(formless)?;
        }
        Ok(())
    }

    /// Ready once the socket has ended.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        loop {
            if self.filled == self.read.len() {
                // A frame larger than the buffer.
                self.read.resize(self.read.len() * 2, 0);
            }
            let free = self.read.get_mut(self.filled..).unwrap_or_default();
            let mut free = ReadBuf::new(free);
            match Pin::new(&mut self.socket).poll_read(cx, &mut free) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(read) => read?,
            }
            let count = free.filled().len();
            if count == 0 {
                return Ok(Poll::Ready(()));
            }
            self.filled += count;
            self.sort();
        }
    }

    fn sort(&mut self) {
        let mut held = self.link.held();
        let LinkState { sorter, sorted, .. } = &mut *held;
        let (had_said, had_other) = (sorted.said.len(), sorted.other.len());
        let bytes = self.read.get(..self.filled).unwrap_or_default();
        let whole = sorter.sort(bytes, sorted);
        let has_closing = sorted.closing.is_some();
        let has_news = sorted.said.len() > had_said || has_closing;
        if sorted.other.len() == had_other && self.last_sign.elapsed() >= SIGN_OF_LIFE {
            sorted.other.extend_from_slice(&HEARTBEAT);
        }
        let is_for_lapin = sorted.other.len() > had_other;
        let waker = if is_for_lapin { held.lapin_waits.take() } else { None };
        drop(held);
        if is_for_lapin {
            self.last_sign = Instant::now();
        }
        waker.into_iter().for_each(Waker::wake);
        if has_news {
            self.link.listener.wake();
        }
        self.read.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }
}

/// However it ends, nobody waits for it any longer.
impl<S> Drop for Mover<S> {
    fn drop(&mut self) {
        self.link.end(&io::Error::new(io::ErrorKind::UnexpectedEof, "the connection task stopped"));
    }
}

/// Empties a buffer, and gives its memory back where it is large.
fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
