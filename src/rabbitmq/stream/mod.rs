//! The connections to RabbitMQ's streams, by their own protocol: publishes out, confirms back.
//!
//! One connection for each stream, to the node that leads it, and on it two publishers. One has a name: of
//! what is published under it the broker keeps the highest publishing id, and drops what is not above, which
//! it confirms all the same. So an event that is sent again is in the stream once. The other has none, and is
//! for what has no such id: parked events, lists, replays.
//!
//! **Invariant:** ids go out ascending, in the order of the calls. Anything that may have left a hole in
//! them (a refusal, a leader that moved) ends the connection.
//!
//! - `frames` is the protocol, as bytes, and `confirms` knows what is in flight: both pure;
//! - `login` finds the node and logs in; `link` moves the bytes from then on.

mod confirms;
mod frames;
mod link;
mod login;
mod view;
mod way;

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::AbortHandle;
use tracing::warn;

use link::{Link, Mover, NAMED, Name, UNNAMED};
pub(crate) use view::StreamView;

use crate::config::{Amqp, Broker, StreamSink};
use crate::core::message::Message;
use crate::core::relay::window::Answer;
use crate::error::{About, Fault, Kind, Peer};
use crate::rabbitmq::publisher::{Closure, Signal};
use crate::within::within;

/// What bytes of a broker's come to, with messages of these ids in flight under a name: the numbers of those
/// that they confirm, and whether the connection goes on.
#[doc(hidden)]
pub fn confirmed_by(bytes: &[u8], in_flight: &[u64]) -> (Vec<u64>, bool) {
    frames::read_anything(bytes);
    let link = Link::new("fuzzed".into(), usize::MAX, true);
    for (number, id) in (0..).zip(in_flight) {
        if let Ok(message) = Message::new("", "", &Default::default(), Default::default()) {
            link.publish(NAMED, *id, number, message);
        }
    }
    let (answers, goes_on) = link.feed(bytes);
    let numbers = answers.into_iter().filter_map(|answer| match answer {
        Answer::Confirm { number, is_ack: true } => Some(number),
        _ => None,
    });
    (numbers.collect(), goes_on)
}

/// What helps where a broker reads no filter values.
pub(crate) const OLD_FOR_FILTERS: &str = "upgrade RabbitMQ to 3.13 or later, or take filter_value away; consumers that filter get no events of before";

/// A stream, as it is connected to.
struct OpenStream {
    name: Arc<str>,
    link: Arc<Link>,
    handle: socket2::Socket,
    mover: AbortHandle,
    /// What is published without a name is numbered by itself.
    unnamed: u64,
    /// Under which the broker drops repeats.
    reference: Option<String>,
    leader: String,
    tells_partitions: bool,
    /// Its broker's version, where that reads no filter values, and there are some.
    without_filters: Option<String>,
}

/// The connections of a relay.
pub(crate) struct StreamPublisher {
    streams: Vec<OpenStream>,
    said: Vec<Answer>,
    /// Why nothing that comes counts any more.
    broken: Option<Fault>,
}

impl StreamPublisher {
    /// Connects to each of these streams, and to each partition of these super streams.
    ///
    /// # Errors
    /// Transient, whatever it is; the login's, or that a stream is missing, or no partition of its super
    /// stream.
    pub(crate) async fn connect<'a>(
        broker: &Broker,
        amqp: &Amqp,
        sinks: impl Iterator<Item = &'a StreamSink> + Clone,
    ) -> Result<Self, Fault> {
        let mut all = Self { streams: Vec::new(), said: Vec::new(), broken: None };
        let names: BTreeSet<&Arc<str>> =
            sinks.clone().flat_map(|sink| sink.partitions.iter()).collect();
        for name in names {
            let connected = login::connect(broker, amqp, name).await?;
            let handle = connected.handle.try_clone();
            let handle = handle.map_err(|error| {
                Fault::of(Kind::Io(error.kind()), Peer::RabbitMq, error.to_string())
            })?;
            let (name, frame_max) = (Arc::clone(name), connected.frame_max);
            let tells_partitions = connected.tells_partitions;
            let leader = format!("{}:{}", connected.leader.host, connected.leader.port);
            let mut of_it = sinks.clone().filter(|sink| sink.partitions.contains(&name));
            let wants_filters = of_it.any(|sink| sink.filter_value.is_some());
            let has_filters = wants_filters && connected.takes_filters;
            let without_filters =
                (wants_filters && !has_filters).then(|| connected.version.clone());
            let link = Arc::new(Link::new(Arc::clone(&name), frame_max, has_filters));
            let mover = tokio::spawn(Mover::new(connected, Arc::clone(&link)).run());
            let mover = mover.abort_handle();
            let stream = OpenStream {
                name,
                link,
                handle,
                mover,
                unnamed: 0,
                reference: None,
                leader,
                tells_partitions,
                without_filters,
            };
            stream.declare(amqp, UNNAMED, "").await?;
            all.streams.push(stream);
        }
        for sink in sinks.filter(|sink| sink.is_super) {
            all.have_partitions(amqp, sink).await?;
        }
        Ok(all)
    }

    /// Says so where a broker reads no filter values, and there are some.
    pub(crate) fn warn_of_filters(&self) {
        if let Some(what) = self.without_filters() {
            warn!(hint = OLD_FOR_FILTERS, "{what}");
        }
    }

    /// What is to be said where a broker reads no filter values, and there are some.
    pub(crate) fn without_filters(&self) -> Option<String> {
        let without =
            |stream: &OpenStream| Some((stream.name.clone(), stream.without_filters.clone()?));
        let (name, version) = self.streams.iter().find_map(without)?;
        Some(format!(
            "RabbitMQ {version} reads no filter values: stream \"{name}\" is published to without them"
        ))
    }

    /// The partitions are those of the super stream: consumers find no others.
    async fn have_partitions(&self, amqp: &Amqp, sink: &StreamSink) -> Result<(), Fault> {
        let any = self.find(sink.partitions.first().map(|name| &**name));
        let Some(any) = any.filter(|any| any.tells_partitions) else { return Ok(()) };
        let (said, rest) =
            any.ask(amqp, frames::key::PARTITIONS, |out| frames::text(out, &sink.name)).await?;
        let (name, wanted) = (&sink.name, sink.partitions.len());
        let hint = format!(
            "pgoutbox init --declare  -- or: rabbitmq-streams add_super_stream {name} --partitions {wanted}"
        );
        let missing = Kind::Amqp(404, About::Code);
        let there = match said {
            frames::code::OK => frames::listed(&rest).unwrap_or_default(),
            // Who may write to the partitions need not have rights on their exchange.
            frames::code::REFUSED => return Ok(()),
            frames::code::NO_STREAM => Vec::new(),
            said => return Err(login::no_stream(said, name)),
        };
        let is_there = |partition: &&Arc<str>| there.iter().any(|it| **it == ***partition);
        match sink.partitions.iter().find(|partition| !is_there(partition)) {
            Some(none) if there.is_empty() => {
                let what = format!(
                    "super stream \"{name}\" does not exist, though stream \"{none}\" does"
                );
                Err(Fault::transient(what).kind(missing).hint(hint))
            }
            Some(none) => {
                let what = format!(
                    "stream \"{none}\" is none of the partitions of super stream \"{name}\": {}",
                    there.join(", ")
                );
                Err(Fault::transient(what).kind(missing).hint(hint))
            }
            None if there.len() > wanted => {
                warn!(
                    hint = "nothing is wrong; to use all of them, stop the relay in good order, and let consumers read to the end, before partitions is raised",
                    there = there.len(),
                    wanted,
                    "super stream \"{name}\" has more partitions than events are spread over"
                );
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn find(&self, name: Option<&str>) -> Option<&OpenStream> {
        let at = self.place(name)?;
        self.streams.get(at)
    }

    /// Where a stream is among those that are connected to, which are in the order of their names.
    fn place(&self, name: Option<&str>) -> Option<usize> {
        let name = name?;
        match self.streams.as_slice() {
            [only] => (*only.name == *name).then_some(0),
            all => all.binary_search_by(|stream| (*stream.name).cmp(name)).ok(),
        }
    }

    /// From here on what has a publishing id goes out under this name. `ceiling`: nothing that was committed
    /// by now has a higher id. `confirmed`: the broker has confirmed this one under the name; 0: none, as far as is
    /// known.
    ///
    /// # Errors
    /// The broker's; and that under the name there is what nobody of ours can have sent.
    pub(crate) async fn name(
        &mut self,
        amqp: &Amqp,
        reference: &str,
        (ceiling, confirmed): (u64, u64),
    ) -> Result<(), Fault> {
        let mut all = Vec::new();
        for stream in &mut self.streams {
            stream.declare(amqp, NAMED, reference).await?;
            stream.reference = Some(reference.to_owned());
            let Some(highest) = stream.highest(amqp, reference).await? else { continue };
            if highest > ceiling {
                return Err(link::somebody_else(&stream.name, reference, highest, ceiling));
            }
            all.push((&stream.link, highest));
            stream.link.watch(Name { reference: reference.to_owned(), ceiling });
        }
        let highest_of_all = all.iter().map(|(_, highest)| *highest).max();
        if let Some(highest) = highest_of_all.filter(|highest| *highest < confirmed) {
            // Which of several had it, nobody knows: one that has nothing, perhaps.
            let has_empty = all.iter().any(|(_, highest)| *highest == 0);
            let those = all.iter().filter(|(_, highest)| *highest == 0 || !has_empty);
            those.for_each(|(link, _)| link.forgot());
            warn!(
                hint = "nothing is wrong where the stream is new; else look whether it was deleted and made again, or brokers lost power: what it held by then is gone",
                highest, confirmed, "the stream has not the last of what was confirmed before"
            );
        }
        Ok(())
    }

    /// The highest id that any of the streams has under a name; `None` where this user may not ask one of them.
    ///
    /// # Errors
    /// The broker does not answer, or has no such stream.
    pub(crate) async fn highest(&self, amqp: &Amqp, reference: &str) -> Result<Option<u64>, Fault> {
        let mut highest_of_all = Some(0);
        for stream in &self.streams {
            let highest = stream.highest(amqp, reference).await?;
            highest_of_all = highest.and_then(|highest| Some(highest_of_all?.max(highest)));
        }
        Ok(highest_of_all)
    }

    /// What can be seen of each stream.
    pub(crate) fn view(&self) -> Vec<StreamView> {
        self.streams.iter().map(OpenStream::view).collect()
    }

    /// The largest message in bytes.
    pub(crate) fn largest(&self) -> usize {
        let largest = self.streams.iter().map(|stream| stream.link.largest()).min();
        largest.unwrap_or(usize::MAX)
    }

    /// Queues a message, of which the answer is to say this number.
    pub(crate) fn publish(&mut self, number: u64, message: Message) {
        let place = self.place(message.stream());
        let Some(stream) = place.and_then(|at| self.streams.get_mut(at)) else {
            let what = "an event is of a stream that was not configured when the session began";
            self.broken.get_or_insert_with(|| Fault::transient(what));
            return;
        };
        let (publisher, id) = match message.publishing_id.filter(|_| stream.reference.is_some()) {
            Some(id) => (NAMED, id),
            None => {
                stream.unnamed += 1;
                (UNNAMED, stream.unnamed)
            }
        };
        stream.link.publish(publisher, id, number, message);
    }

    /// Waits for what comes back. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// A connection was lost, or the broker refused a message, or another publisher has our name.
    pub(crate) async fn next(&mut self) -> Result<Signal, Closure> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next).
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Signal, Closure>> {
        if let Some(fault) = &self.broken {
            return Poll::Ready(Err(Closure::Lost(fault.clone())));
        }
        let mut ended = None;
        for stream in &self.streams {
            if let Poll::Ready(fault) = stream.link.listen(cx, &mut self.said) {
                ended.get_or_insert(fault);
            }
        }
        match (self.said.is_empty(), ended) {
            (false, _) => Poll::Ready(Ok(Signal::Answers(std::mem::take(&mut self.said)))),
            (true, Some(fault)) => Poll::Ready(Err(Closure::Lost(fault))),
            (true, None) => Poll::Pending,
        }
    }
}

impl OpenStream {
    fn view(&self) -> StreamView {
        let mut view = StreamView {
            stream: Arc::clone(&self.name),
            leader: self.leader.clone(),
            name: self.reference.clone(),
            is_watched: false,
            in_flight: 0,
            sent_id: 0,
            confirmed_id: 0,
            has_forgotten: false,
        };
        self.link.view(&mut view);
        view
    }

    async fn ask(
        &self,
        amqp: &Amqp,
        key: u16,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(u16, Vec<u8>), Fault> {
        let answer = async {
            let gone = "the connection ended while it was asked";
            let answer = self.link.ask(key, write).await;
            answer.map_err(|_| Fault::of(Kind::Closed, Peer::RabbitMq, gone))
        };
        let told = within(amqp.connect_timeout, answer, |bound| {
            let what = format!("no answer within {}", crate::text::span(bound));
            Fault::of(Kind::Timeout, Peer::RabbitMq, what)
        });
        told.await.map_err(|mut fault| {
            fault.what = format!("stream \"{}\": {}", self.name, fault.what);
            fault
        })
    }

    async fn declare(&self, amqp: &Amqp, publisher: u8, reference: &str) -> Result<(), Fault> {
        let (code, _) = self
            .ask(amqp, frames::key::DECLARE_PUBLISHER, |out| {
                out.push(publisher);
                frames::text(out, reference);
                frames::text(out, &self.name);
            })
            .await?;
        match code {
            frames::code::OK => Ok(()),
            code => Err(login::no_stream(code, &self.name)),
        }
    }

    /// The highest id under a name; `None` where this user may not ask.
    async fn highest(&self, amqp: &Amqp, reference: &str) -> Result<Option<u64>, Fault> {
        let (code, rest) = self
            .ask(amqp, frames::key::QUERY_PUBLISHER_SEQUENCE, |out| {
                frames::text(out, reference);
                frames::text(out, &self.name);
            })
            .await?;
        match code {
            frames::code::OK => Ok(frames::sequence(&rest)),
            frames::code::REFUSED => {
                warn!(
                    hint = "grant the relay's user read on the stream: rabbitmqctl set_permissions",
                    stream = &*self.name,
                    "the highest publishing id of the stream may not be asked for: nobody notices where another relay publishes under the same name"
                );
                Ok(None)
            }
            code => Err(login::no_stream(code, &self.name)),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let _ = self.handle.shutdown(Shutdown::Both);
        self.mover.abort();
    }
}
