//! The socket of a stream's connection: a task moves its bytes, so that the broker is answered whatever the
//! session is at.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval, sleep_until};
use tracing::warn;

use super::confirms::OpenMessages;
use super::frames::{self, First, Frame, Publish, code, key, words};
use super::login::{LeaderConnection, Socket};
use super::view::StreamView;
use crate::core::message::Message;
use crate::core::relay::window::Answer;
use crate::error::{Fault, Kind, Peer};

/// Read at once, at most.
const READ_BYTES: usize = 64 << 10;
/// Written at once, about: what more waits, waits as messages, whose bodies are the stream's memory.
const WRITE_BYTES: usize = 256 << 10;
/// Pause between questions for the highest id that the broker has under our name.
const QUERY_PAUSE: Duration = Duration::from_secs(1);
/// After so many heartbeats without a word the broker is given up.
const SILENT_HEARTBEATS: u32 = 2;

/// The publishers of a connection. Without a name the broker drops nothing.
pub(super) const UNNAMED: u8 = 0;
pub(super) const NAMED: u8 = 1;

/// What the task and the publisher share.
pub(super) struct Link {
    held: Mutex<StreamState>,
    /// The task that moves the bytes.
    mover: AtomicWaker,
    /// Who waits for answers.
    listener: AtomicWaker,
}

/// A message on its way, its number among all, and the id under which its publisher sends it.
struct Outgoing {
    publisher: u8,
    id: u64,
    number: u64,
    message: Message,
}

/// The name under which a stream is published to.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) reference: String,
    /// Nothing of ours that is in the stream, whoever sent it, is above.
    pub(super) ceiling: u64,
}

/// Where an answer goes: its code, and what else it says.
type Reply = oneshot::Sender<(u16, Vec<u8>)>;

struct StreamState {
    stream: Arc<str>,
    frame_max: usize,
    /// Messages may have filter values.
    has_filters: bool,
    /// Requests and answers, as whole frames.
    out: Vec<u8>,
    waiting: VecDeque<Outgoing>,
    unconfirmed: [OpenMessages; 2],
    said: Vec<Answer>,
    /// Who waits for the answer to the request of this number.
    asked: Vec<(u32, Reply)>,
    number: u32,
    name: Option<Name>,
    /// The highest id that was sent under the name.
    sent: u64,
    /// The request for the highest id under the name that is under way, and how far all was confirmed then.
    query: Option<(u32, u64)>,
    queried_at: Instant,
    /// Something was sent under the name since.
    is_unqueried: bool,
    has_forgotten: bool,
    ended: Option<Fault>,
}

impl Link {
    pub(super) fn new(stream: Arc<str>, frame_max: usize, has_filters: bool) -> Self {
        Self {
            held: Mutex::new(StreamState {
                stream,
                frame_max,
                has_filters,
                out: Vec::new(),
                waiting: VecDeque::new(),
                unconfirmed: Default::default(),
                said: Vec::new(),
                asked: Vec::new(),
                // Those of the login were lower, and are answered.
                number: 1_000,
                name: None,
                sent: 0,
                query: None,
                queried_at: Instant::now(),
                is_unqueried: false,
                has_forgotten: false,
                ended: None,
            }),
            mover: AtomicWaker::new(),
            listener: AtomicWaker::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, StreamState> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest message in bytes.
    pub(super) fn largest(&self) -> usize {
        self.held().frame_max.saturating_sub(frames::OVERHEAD)
    }

    /// Has a message written, after those before it.
    pub(super) fn publish(&self, publisher: u8, id: u64, number: u64, message: Message) {
        let mut held = self.held();
        if held.ended.is_some() {
            return;
        }
        let was_empty = held.waiting.is_empty();
        if publisher == NAMED {
            held.sent = held.sent.max(id);
        }
        if let Some(unconfirmed) = held.unconfirmed.get_mut(usize::from(publisher)) {
            unconfirmed.publish(id, number);
        }
        held.waiting.push_back(Outgoing { publisher, id, number, message });
        drop(held);
        if was_empty {
            self.mover.wake();
        }
    }

    /// Asks; the answer's code, and what else it says, come by what is returned.
    pub(super) fn ask(
        &self,
        key: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> oneshot::Receiver<(u16, Vec<u8>)> {
        let (tell, told) = oneshot::channel();
        let mut held = self.held();
        let number = held.next_number();
        frames::request(&mut held.out, key, number, write);
        held.asked.push((number, tell));
        drop(held);
        self.mover.wake();
        told
    }

    /// From here on the highest id under this name is watched.
    pub(super) fn watch(&self, name: Name) {
        self.held().name = Some(name);
    }

    /// It was found without what it had confirmed.
    pub(super) fn forgot(&self) {
        self.held().has_forgotten = true;
    }

    /// Adds what is known of it here.
    pub(super) fn view(&self, view: &mut StreamView) {
        let held = self.held();
        let [_, named] = &held.unconfirmed;
        view.is_watched = held.name.is_some();
        view.in_flight = held.unconfirmed.iter().map(OpenMessages::count).sum();
        (view.sent_id, view.confirmed_id) = (held.sent, named.through());
        view.has_forgotten = held.has_forgotten;
    }

    /// Takes the answers; the fault once it has ended.
    pub(super) fn listen(&self, cx: &Context<'_>, said: &mut Vec<Answer>) -> Poll<Fault> {
        self.listener.register(cx.waker());
        let mut held = self.held();
        said.append(&mut held.said);
        match &held.ended {
            Some(fault) if said.is_empty() => Poll::Ready(fault.clone()),
            _ => Poll::Pending,
        }
    }

    /// Takes in bytes as if the broker had sent them: the answers in them, and whether the connection goes on.
    pub(super) fn feed(&self, bytes: &[u8]) -> (Vec<Answer>, bool) {
        let mut held = self.held();
        let (_, outcome) = held.take_all(bytes);
        (std::mem::take(&mut held.said), outcome.is_ok())
    }

    fn end(&self, fault: Fault) {
        let mut held = self.held();
        held.ended.get_or_insert(fault);
        held.asked.clear();
        drop(held);
        self.listener.wake();
    }
}

impl StreamState {
    fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    /// Whatever of ours is in the stream, its id is not above.
    fn highest_of_ours(&self) -> u64 {
        self.name.as_ref().map_or(0, |name| name.ceiling).max(self.sent)
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        std::mem::swap(&mut self.out, out);
        while out.len() < WRITE_BYTES
            && let Some(publisher) = self.waiting.front().map(|first| first.publisher)
        {
            let mut publish = Publish::open(out, publisher, self.frame_max, self.has_filters);
            while out.len() < WRITE_BYTES
                && self.waiting.front().is_some_and(|next| next.publisher == publisher)
                && let Some(next) = self.waiting.pop_front()
            {
                let parts = [next.message.sections_bytes(), &next.message.body];
                if publish.add(out, next.id, next.message.filter_value(), parts).is_ok() {
                    continue;
                }
                if publish.is_empty() {
                    let what = format!("message {} fits no frame", next.number);
                    return Err(Fault::of(Kind::Own, Peer::RabbitMq, what));
                }
                self.waiting.push_front(next);
                break;
            }
            publish.close(out);
            self.is_unqueried |= publisher == NAMED;
        }
        Ok(())
    }

    /// When the highest id is to be asked for; `None` where nothing was sent since, or an answer is to come.
    fn query_at(&self) -> Option<Instant> {
        let is_due = self.is_unqueried && self.query.is_none() && self.name.is_some();
        is_due.then(|| self.queried_at + QUERY_PAUSE)
    }

    fn ask_for_the_highest(&mut self) {
        let number = self.number.wrapping_add(1);
        let Some(name) = self.name.as_ref() else { return };
        let out = &mut self.out;
        frames::request(out, key::QUERY_PUBLISHER_SEQUENCE, number, |out| {
            frames::text(out, &name.reference);
            frames::text(out, &self.stream);
        });
        let [_, named] = &self.unconfirmed;
        (self.number, self.query) = (number, Some((number, named.through())));
        (self.queried_at, self.is_unqueried) = (Instant::now(), false);
    }

    /// Takes in whole frames; returns how many bytes these were.
    fn take_all(&mut self, bytes: &[u8]) -> (usize, Result<(), Fault>) {
        let mut at = 0;
        loop {
            match frames::first(bytes.get(at..).unwrap_or_default()) {
                First::Whole(frame, taken) => {
                    at += taken;
                    if let Err(fault) = self.take(frame) {
                        return (at, Err(fault));
                    }
                }
                First::Part => return (at, Ok(())),
                First::None => {
                    let what = "the broker sent what is no frame";
                    return (at, Err(lost(&self.stream, what)));
                }
            }
        }
    }

    /// Takes in a frame.
    fn take(&mut self, frame: &[u8]) -> Result<(), Fault> {
        let unreadable = || lost(&self.stream, "the broker sent a frame that cannot be read");
        match frames::read(frame).ok_or_else(unreadable)? {
            Frame::Confirm { publisher, ids } => {
                let stray = || lost(&self.stream, "the broker confirmed what is not in flight");
                let unconfirmed = self.unconfirmed.get_mut(usize::from(publisher));
                let unconfirmed = unconfirmed.ok_or_else(stray)?;
                for id in ids.each() {
                    let number = unconfirmed.confirm(id).map_err(|_| stray())?;
                    self.said.push(Answer::Confirm { number, is_ack: true });
                }
            }
            Frame::PublishError { id, code } => {
                let what = format!("message {id} was refused: {} ({code})", words(code));
                return Err(lost(&self.stream, &what));
            }
            Frame::MetadataUpdate { code, stream } if *stream == *self.stream => {
                let what = format!("it moved, or is gone: {} ({code})", words(code));
                return Err(lost(&self.stream, &what));
            }
            Frame::Answer { key: of, number, code, rest } => {
                if of == key::QUERY_PUBLISHER_SEQUENCE
                    && let Some((_, through)) = self.query.take_if(|(asked, _)| *asked == number)
                {
                    return self.compare(code, frames::sequence(rest), through);
                }
                if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == number) {
                    // Whoever asked may have given up.
                    let _ = self.asked.swap_remove(at).1.send((code, rest.to_vec()));
                }
            }
            Frame::Close { number, code, reason } => {
                frames::request(&mut self.out, key::CLOSE | key::ANSWER, number, |out| {
                    out.extend_from_slice(&code::OK.to_be_bytes());
                });
                let what = format!("the broker closed the connection: {reason} ({})", words(code));
                return Err(lost(&self.stream, &what));
            }
            _ => {}
        }
        Ok(())
    }

    /// Compares the highest id that the broker has under our name with what was sent and confirmed.
    fn compare(&mut self, said: u16, highest: Option<u64>, through: u64) -> Result<(), Fault> {
        // It takes the right to read, without which nothing is compared: that was told at the start.
        let Some(highest) = highest.filter(|_| said == code::OK) else { return Ok(()) };
        if highest > self.highest_of_ours() {
            let name = self.name.as_ref().map_or("", |name| name.reference.as_str());
            return Err(somebody_else(&self.stream, name, highest, self.highest_of_ours()));
        }
        if highest < through && !std::mem::replace(&mut self.has_forgotten, true) {
            warn!(
                hint = "look whether the stream was deleted and made again, or brokers lost power: what it held by then is gone",
                stream = &*self.stream,
                highest,
                confirmed = through,
                "the broker has forgotten events that it confirmed: repeats are possible"
            );
        }
        Ok(())
    }
}

/// Under our name there is what we did not send: the broker drops what we send below it.
pub(super) fn somebody_else(stream: &str, name: &str, highest: u64, ours: u64) -> Fault {
    Fault::halt(
        format!(
            "somebody else publishes to stream \"{stream}\" as \"{name}\", up to id {highest} where this relay has come to {ours} at most: the broker drops what this relay sends below that"
        ),
        "find the other relay: this database was copied, or restored from a copy. Then go on under another name: UPDATE pgoutbox.progress SET publishing_epoch = NULL WHERE slot = '…';  -- and send what was dropped: pgoutbox replay --relayed-since …",
    )
    .found(Some("broker-stream-name"))
}

fn lost(stream: &str, what: &str) -> Fault {
    let what = format!("the connection to stream \"{stream}\" was lost: {what}");
    Fault::of(Kind::Closed, Peer::RabbitMq, what).found(Some(super::login::NO_WAY))
}

/// Moves bytes between the socket and the link, until one of them ends.
pub(super) struct Mover {
    socket: Box<dyn Socket>,
    link: Arc<Link>,
    /// Being written: from `written` on.
    out: Vec<u8>,
    written: usize,
    is_flushed: bool,
    /// Read and not yet taken in: `filled` bytes.
    read: Vec<u8>,
    filled: usize,
    beat: Option<Interval>,
    /// When the highest id is asked for: set anew once a second at most.
    query: Pin<Box<Sleep>>,
    has_written: bool,
    silent_beats: u32,
}

impl Mover {
    pub(super) fn new(connected: LeaderConnection, link: Arc<Link>) -> Self {
        let LeaderConnection { socket, mut read, heartbeat, .. } = connected;
        let filled = read.len();
        read.resize(filled.max(READ_BYTES), 0);
        let beat = (heartbeat > 0).then(|| {
            let mut beat = interval(Duration::from_secs(u64::from(heartbeat)));
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        });
        Self {
            socket,
            link,
            out: Vec::new(),
            written: 0,
            is_flushed: true,
            read,
            filled,
            beat,
            query: Box::pin(sleep_until(Instant::now())),
            has_written: false,
            silent_beats: 0,
        }
    }

    pub(super) async fn run(mut self) {
        if let Err(fault) = std::future::poll_fn(|cx| self.poll(cx)).await {
            self.link.end(fault);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.link.mover.register(cx.waker());
        self.beat(cx)?;
        self.read(cx)?;
        self.query(cx);
        // What was read may have to be answered.
        ready!(self.write(cx))?;
        Poll::Pending
    }

    /// Says that we live, where nothing else says so, and gives a silent broker up.
    fn beat(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Some(beat) = &mut self.beat
            && beat.poll_tick(cx).is_ready()
        {
            if !std::mem::take(&mut self.has_written) {
                frames::frame(&mut self.link.held().out, key::HEARTBEAT, |_| {});
            }
            self.silent_beats += 1;
            // The first tick comes at once.
            if self.silent_beats > SILENT_HEARTBEATS + 1 {
                let what = "nothing was heard of the broker for two heartbeats";
                return Err(self.lost(what).kind(Kind::Timeout));
            }
        }
        Ok(())
    }

    /// Asks for the highest id under the name, some time after something was sent.
    fn query(&mut self, cx: &mut Context<'_>) {
        let mut held = self.link.held();
        let Some(at) = held.query_at() else { return };
        if self.query.deadline() != at {
            self.query.as_mut().reset(at);
        }
        if self.query.as_mut().poll(cx).is_ready() {
            held.ask_for_the_highest();
        }
    }

    fn lost(&self, what: &str) -> Fault {
        lost(&self.link.held().stream, what)
    }

    fn failed(&self, error: &io::Error) -> Fault {
        self.lost(&error.to_string())
    }

    /// Ready once it has failed; pending while there is nothing more to be written, or no room.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if self.written == self.out.len() {
                self.written = 0;
                self.out.clear();
                self.link.held().fill(&mut self.out)?;
                if self.out.is_empty() {
                    break;
                }
            }
            let rest = self.out.get(self.written..).unwrap_or_default();
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest));
            let count = count.map_err(|error| self.failed(&error))?;
            if count == 0 {
                return Poll::Ready(Err(self.lost("nothing more can be written")));
            }
            self.written += count;
            (self.is_flushed, self.has_written) = (false, true);
        }
        if !self.is_flushed {
            let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx));
            flushed.map_err(|error| self.failed(&error))?;
            self.is_flushed = true;
        }
        Poll::Pending
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            self.take_in()?;
            if self.filled == self.read.len() {
                // A frame larger than the buffer.
                self.read.resize(self.read.len() * 2, 0);
            }
            let free = self.read.get_mut(self.filled..).unwrap_or_default();
            let mut free = ReadBuf::new(free);
            match Pin::new(&mut self.socket).poll_read(cx, &mut free) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(self.failed(&error)),
                Poll::Ready(Ok(())) => {}
            }
            let count = free.filled().len();
            if count == 0 {
                return Err(self.lost("the broker hung up"));
            }
            self.silent_beats = 0;
            self.filled += count;
        }
    }

    fn take_in(&mut self) -> Result<(), Fault> {
        let mut held = self.link.held();
        let had_said = held.said.len();
        let (at, outcome) = held.take_all(self.read.get(..self.filled).unwrap_or_default());
        let has_news = held.said.len() > had_said;
        drop(held);
        if has_news {
            self.link.listener.wake();
        }
        self.read.copy_within(at..self.filled, 0);
        self.filled -= at;
        outcome
    }
}

/// However it ends, nobody waits for it any longer.
impl Drop for Mover {
    fn drop(&mut self) {
        self.link.end(self.lost("the connection task stopped"));
    }
}
