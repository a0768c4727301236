//! A model of RabbitMQ.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pgoutbox::testing::core::relay::window::{Answer, Return};

use crate::script::Script;

/// The exchange of dead letters.
pub(crate) const DEAD: &str = "dead";

/// The place of an event that is in no history any more.
pub(crate) const LOST: usize = usize::MAX;

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// From 0, on its connection.
    pub(crate) number: u64,
    /// Place of its event.
    pub(crate) place: usize,
    pub(crate) id: String,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) is_to_stream: bool,
    /// By which a stream knows it again: an id, under a name.
    pub(crate) publishing_id: Option<(u64, u64)>,
}

/// What a queue took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    pub(crate) place: usize,
    pub(crate) connection: usize,
    /// A stream took it under the name of the relay.
    pub(crate) is_named: bool,
}

/// A connection of the relay, as the broker sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) number: usize,
    /// Written by the relay, not yet looked at by the broker.
    pub(crate) sent: VecDeque<Sent>,
    /// Looked at; `true`: it will be acked.
    unconfirmed: BTreeMap<u64, bool>,
    /// Written by the broker, not yet read by the relay.
    wire: VecDeque<Answer>,
    pub(crate) is_blocked: bool,
    pub(crate) closed: Option<String>,
    /// Queues that refused something of this channel and never tell it that they have room
    /// again: a quorum queue whose limit is taken away does that.
    refuses_for_ever: BTreeSet<String>,
}

/// The broker.
#[derive(Debug, Default)]
pub(crate) struct Broker {
    pub(crate) unbound: BTreeSet<String>,
    pub(crate) full: BTreeSet<String>,
    /// Whether a channel hears of it when a queue has room again.
    tells_of_room: bool,
    pub(crate) missing_exchanges: BTreeSet<String>,
    /// Dead letters that were taken, by place.
    pub(crate) dead: BTreeSet<usize>,
    pub(crate) is_dead_unbound: bool,
    /// What the queues took, in order.
    pub(crate) queue: Vec<Copy>,
    /// Places refused, by connection.
    pub(crate) refused: BTreeSet<(usize, usize)>,
    connections: usize,
    /// The highest publishing id that the stream has, by name.
    highest: BTreeMap<u64, u64>,
    /// What it dropped, since it was not above.
    pub(crate) dropped: u64,
    /// Connections whose client is gone and whose bytes are still read.
    ghosts: Vec<Connection>,
}

impl Broker {
    pub(crate) fn new(tells_of_room: bool) -> Self {
        Self { tells_of_room, ..Self::default() }
    }

    pub(crate) fn connect(&mut self) -> Connection {
        self.connections += 1;
        Connection {
            number: self.connections,
            sent: VecDeque::new(),
            unconfirmed: BTreeMap::new(),
            wire: VecDeque::new(),
            is_blocked: false,
            closed: None,
            refuses_for_ever: BTreeSet::new(),
        }
    }

    /// Looks at the next message of a connection.
    pub(crate) fn take(&mut self, connection: &mut Connection, script: &Script) -> bool {
        let Some(sent) = connection.next(script) else { return false };
        if sent.is_to_stream {
            self.append(&sent, connection.number);
            connection.unconfirmed.insert(sent.number, true);
            return true;
        }
        if self.missing_exchanges.contains(&sent.exchange) {
            self.refused.insert((connection.number, sent.place));
            connection.closed = Some(format!("404 NOT_FOUND - no exchange '{}'", sent.exchange));
            connection.sent.retain(|sent| sent.is_to_stream);
            connection.unconfirmed.clear();
            return true;
        }
        let is_dead = sent.exchange == DEAD;
        let is_unroutable =
            if is_dead { self.is_dead_unbound } else { self.unbound.contains(&sent.routing_key) };
        let key = &sent.routing_key;
        let is_full = self.full.contains(key) || connection.refuses_for_ever.contains(key);
        let is_nacked = !is_unroutable && !is_dead && is_full;
        if is_nacked && !self.tells_of_room {
            connection.refuses_for_ever.insert(key.clone());
        }
        if is_unroutable {
            let why = "312 NO_ROUTE".to_owned();
            let message_id = sent.id.clone();
            connection.wire.push_back(Answer::Return(Return { message_id, position: None, why }));
        }
        if is_dead && !is_unroutable {
            self.dead.insert(sent.place);
        } else if is_unroutable || is_nacked {
            self.refused.insert((connection.number, sent.place));
        } else {
            let (place, connection) = (sent.place, connection.number);
            self.queue.push(Copy { place, connection, is_named: false });
        }
        connection.unconfirmed.insert(sent.number, !is_nacked);
        true
    }

    /// Whether or not it ever saw this one: what is not above is dropped.
    fn append(&mut self, sent: &Sent, connection: usize) {
        if let Some((name, id)) = sent.publishing_id {
            let highest = self.highest.entry(name).or_default();
            if *highest >= id {
                self.dropped += 1;
                return;
            }
            *highest = id;
        }
        let is_named = sent.publishing_id.is_some();
        self.queue.push(Copy { place: sent.place, connection, is_named });
    }

    /// The highest publishing id under a name.
    pub(crate) fn highest(&self, name: u64) -> u64 {
        self.highest.get(&name).copied().unwrap_or(0)
    }

    /// What relays that are gone sent under a name, and the broker has not read.
    pub(crate) fn on_their_way(&self) -> impl Iterator<Item = usize> {
        let sent = self.ghosts.iter().flat_map(|ghost| &ghost.sent);
        sent.filter(|sent| sent.publishing_id.is_some()).map(|sent| sent.place)
    }

    /// Postgres is what it was when it had so many events: what later ones had its places is nobody's now.
    pub(crate) fn history_ends(&mut self, count: usize) {
        let is_left = |place: &usize| *place < count;
        self.dead.retain(is_left);
        self.refused.retain(|(_, place)| is_left(place));
        let ghosts = self.ghosts.iter_mut().flat_map(|ghost| &mut ghost.sent);
        let places = self.queue.iter_mut().map(|copy| &mut copy.place);
        for place in ghosts.map(|sent| &mut sent.place).chain(places) {
            if *place >= count {
                *place = LOST;
            }
        }
    }

    /// The client is gone. Of what it wrote last the broker reads a part, perhaps later.
    pub(crate) fn abandon(&mut self, mut connection: Connection, script: &Script) {
        let is_of_streams = connection.sent.iter().filter(|sent| sent.is_to_stream).count();
        let is_mixed = !matches!(connection.sent.len() - is_of_streams, 0) && is_of_streams > 0;
        if is_mixed {
            // Two sockets, of each of which it reads a part.
            let mut left = [script.up_to(connection.sent.len()), script.up_to(is_of_streams)];
            connection.sent.retain(|sent| {
                let left = &mut left[usize::from(sent.is_to_stream)];
                let is_kept = *left > 0;
                *left = left.saturating_sub(1);
                is_kept
            });
        } else {
            let kept = script.up_to(connection.sent.len());
            connection.sent.truncate(kept);
        }
        connection.is_blocked = false;
        self.ghosts.push(connection);
    }

    /// Reads on from a connection whose client is gone.
    pub(crate) fn haunt(&mut self, script: &Script) -> bool {
        self.ghosts.retain(|ghost| {
            ghost.sent.iter().any(|sent| sent.is_to_stream || ghost.closed.is_none())
        });
        if self.ghosts.is_empty() {
            return false;
        }
        let at = script.up_to(self.ghosts.len() - 1);
        let mut ghost = self.ghosts.swap_remove(at);
        let is_taken = self.take(&mut ghost, script);
        self.ghosts.push(ghost);
        is_taken
    }
}

impl Connection {
    /// What the broker looks at next. An alarm, and an exchange that is missing, are none of a stream's.
    fn next(&mut self, script: &Script) -> Option<Sent> {
        let is_hindered = self.is_blocked || self.closed.is_some();
        let first = |wanted| self.sent.iter().position(|sent| sent.is_to_stream == wanted);
        let at = match (first(true), first(false).filter(|_| !is_hindered)) {
            // Two connections, in truth.
            (Some(of_stream), Some(exchanged)) => {
                if script.is_heads() {
                    of_stream
                } else {
                    exchanged
                }
            }
            (one, other) => one.or(other)?,
        };
        self.sent.remove(at)
    }

    /// The broker confirms some of what it looked at, in an order of its own.
    pub(crate) fn confirm(&mut self, script: &Script, is_everything: bool) {
        let numbers: Vec<u64> = self.unconfirmed.keys().copied().collect();
        if numbers.is_empty() {
            return;
        }
        let at = if is_everything { numbers.len() - 1 } else { script.up_to(numbers.len() - 1) };
        let mut batch = if is_everything || script.is_heads() {
            numbers[..=at].to_vec()
        } else {
            vec![numbers[at]]
        };
        script.shuffle(&mut batch);
        for number in batch {
            let Some(is_ack) = self.unconfirmed.remove(&number) else { continue };
            self.wire.push_back(Answer::Confirm { number, is_ack });
        }
    }

    /// The relay reads some of what the broker wrote.
    pub(crate) fn look(&mut self, script: &Script) -> Vec<Answer> {
        let len = self.wire.len();
        let count = script.pick(&[0, script.up_to(len), len, len]);
        self.wire.drain(..count).collect()
    }

    /// Something waits to be read.
    pub(crate) fn has_news(&self) -> bool {
        !self.wire.is_empty()
    }
}
