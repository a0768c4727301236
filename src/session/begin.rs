//! How a session begins, step by step. Each step is a type that holds what is known by then, and an
//! arrow to the next, which may fail in its own way:
//!
//! `Preflighted` (the tables are as they should be) → `Connected` (the broker takes messages) →
//! `Owner` (the slot is ours; a standby waits here, for weeks perhaps) → `Recalled` (it is known
//! what earlier sessions did) → `Prepared` (and what is read) → [`Session`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use postgres_types::PgLsn;
use tokio::time::Instant;
use tokio_postgres::Client;
use tracing::{debug, info, warn};

use super::audit::{AuditConnection, answered, silence};
use super::broker::BrokerConnection;
use super::bulletin::Bulletin;
use super::checks::attached;
use super::jobs::Jobs;
use super::past::{Past, ServerMemory};
use super::progress_row::{
    self, RowOwner, publishing_name, recall, record_listed, record_readings,
};
use super::readings::Readings;
use super::recording::Recording;
use super::routes;
use super::standby::{SlotLease, take_slot};
use super::work::Session;
use crate::board::Board;
use crate::config::{Broker, Config, Table};
use crate::core::event::Position;
use crate::core::relay::{self, KnownName, Memory, Naming, Relay, Rules};
use crate::error::{Fault, Side, codes};
use crate::otlp;
use crate::postgres;
use crate::postgres::identity::new_session;
use crate::postgres::marker::Marker;
use crate::postgres::outbox_table::OutboxTable;
use crate::rabbitmq::sink::Sink;
use crate::rabbitmq::stream::StreamPublisher;
use crate::slot::catch_up::{self, CatchUp};
use crate::slot::{self, Coverage, FormerOutbox, Prerequisites, record_coverage};

/// Tables that the line at the start names.
const SHOWN: usize = 20;

/// What a session is begun with.
#[derive(Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) audit: &'a AuditConnection,
    /// Which of the brokers is tried.
    pub(super) broker: usize,
    pub(super) board: &'a Board,
}

impl<'a> Setup<'a> {
    fn client(&self) -> &'a Client {
        &self.audit.client
    }

    fn slot(&self) -> &'a str {
        &self.config.postgres.slot
    }

    fn broker(&self) -> Result<&'a Broker, Fault> {
        let brokers = &self.config.amqp.brokers;
        let broker = brokers.get(self.broker % brokers.len().max(1));
        broker.ok_or_else(|| Fault::usage("no broker is configured", "set AMQP_URL"))
    }
}

/// Server, slot, publication and tables are as they should be.
struct PreflightStep {
    tables: Vec<OutboxTable>,
    coverage: Coverage,
    has_layout: bool,
}

/// The broker takes messages.
struct BrokerStep {
    preflighted: PreflightStep,
    publisher: Sink,
}

/// Nobody else has the slot.
struct Owner {
    connected: BrokerStep,
    taken: SlotLease,
    /// Its id, by which what earlier sessions still write is refused.
    session: String,
}

/// It is known what earlier sessions did.
struct RecallStep {
    owner: Owner,
    known: progress_row::SlotMemory,
    /// What is published before the stream.
    catch_up: Option<CatchUp>,
    /// Up to where the stream is passed before that.
    passes_until: Option<PgLsn>,
    /// Earlier sessions of the outage came as far: they have said all there is to say.
    is_quiet: bool,
}

/// Everything is known that is read.
struct PrepareStep {
    recalled: RecallStep,
    /// With the tables that are away behind those that are configured.
    config: Arc<Config>,
    outboxes: Vec<OutboxTable>,
    away: Vec<FormerOutbox>,
    marker: Marker,
    /// For what is looked before anything is published.
    look_ahead: Option<relay::LookAhead>,
    /// Sources, by number, of which it is not known whether what is before the place was delivered.
    are_new: Vec<bool>,
    /// Tables that are gone, of which it is known.
    were_read: BTreeSet<(u32, usize)>,
    readings: Readings,
    /// Where the slot must have come to for all to be known to be read so.
    known_from: Option<PgLsn>,
}

impl Session {
    /// Begins a session: everything up to the first frame of the stream.
    pub(super) async fn begin(given: Setup<'_>, past: &mut Past) -> Result<Self, Fault> {
        let preflighted = PreflightStep::check(given, past).await?;
        let connected = preflighted.connect(given).await?;
        let owner = connected.take_slot(given, past).await?;
        let recalled = owner.recall(given, past).await?;
        recalled.prepare(given, past).await?.start(given, past)
    }
}

impl PreflightStep {
    async fn check(given: Setup<'_>, past: &mut Past) -> Result<Self, Fault> {
        let Setup { config, .. } = given;
        let preflight = answered(config, slot::preflight(given.client(), config)).await?;
        let Prerequisites { tables, coverage, warnings, has_layout } = match preflight.ready(config)
        {
            Ok(ready) => ready,
            // What a pattern found may have gone since: the next session knows.
            Err(fault) => {
                let change = answered(config, slot::change(given.client(), config)).await?;
                return Err(change.map_or(fault, |it| Fault::transient(it.what)));
            }
        };
        for warning in slot::one_of_each(warnings) {
            // Once for each process: they do not change from session to session.
            if past.warned.insert(warning.what.clone()) {
                warn!(hint = warning.hint, "{}", warning.what);
            }
        }
        Ok(Self { tables, coverage, has_layout })
    }

    /// The broker before the slot: a relay that cannot publish need not keep a walsender busy.
    async fn connect(self, given: Setup<'_>) -> Result<BrokerStep, Fault> {
        let publisher = Sink::connect(given.broker()?, &given.config.amqp, given.config).await;
        let publisher = publisher.map_err(|fault| fault.on(Side::Broker))?;
        Ok(BrokerStep { preflighted: self, publisher })
    }
}

impl BrokerStep {
    async fn take_slot(mut self, given: Setup<'_>, past: &mut Past) -> Result<Owner, Fault> {
        let (Setup { config, board, .. }, client) = (given, given.client());
        let PreflightStep { tables, coverage, has_layout } = &self.preflighted;
        // Who spreads the outbox otherwise drops the slots of before: they are not to be made again.
        if *has_layout {
            answered(config, slot::is_of_layout(client, config)).await?;
        }
        if let Some(why) = catch_up::ensure_slot(config, client, tables).await? {
            warn!(why, "slot recreated: rows without a mark are published first");
            // What was missed before, the list has.
            let kept = record_coverage(client, given.slot(), coverage.digest().number());
            answered(config, kept).await?;
        }
        let taken = match take_slot(config, past, client, board, &mut self.publisher).await {
            Ok(taken) => taken,
            // Of the broker: the slot has nothing to do with it.
            Err(fault) if fault.side == Side::Broker => return Err(fault),
            Err(fault) => return Err(catch_up::soften(config, client, fault).await),
        };
        past.walsender = taken.wal.pid();
        if *has_layout {
            answered(config, slot::is_of_layout(client, config)).await?;
        }
        // Only now: the relay that held the slot before wrote its progress until then, and saw to
        // what was changed meanwhile.
        if answered(config, slot::coverage(client, config)).await? != *coverage {
            return Err(Fault::transient("the publication was changed while the session began"));
        }
        Ok(Owner { connected: self, taken, session: new_session() })
    }
}

impl Owner {
    async fn recall(self, given: Setup<'_>, past: &mut Past) -> Result<RecallStep, Fault> {
        let (Setup { config, board, .. }, client) = (given, given.client());
        let identity = &self.taken.identity;
        let coverage = &self.connected.preflighted.coverage;
        let mut looked = past.looked.clone();
        let tables = &self.connected.preflighted.tables;
        let attached = match attached(config, client, tables, &mut looked).await {
            // The first check of the session waits for it.
            Err(fault) if fault.is_code(codes::LOCK_NOT_AVAILABLE) => None,
            attached => attached?,
        };
        let has_messages = self.taken.has_messages;
        let own = RowOwner { identity, session: &self.session, has_messages };
        answered(config, progress_row::note_start(past, client)).await?;
        let known = recall(config, past, board, client, own, coverage, attached);
        let known = answered(config, known).await?;
        // Only now: what they hold is known to wait, on disk.
        past.looked = looked;
        past.memory = Some(ServerMemory {
            identity: identity.clone(),
            memory: known.memory.clone(),
            has_messages,
            publication: config.postgres.publication.clone(),
            recorded: known.durable,
            acknowledged: known.confirmed.max(past.acknowledged(identity)),
        });
        let is_quiet = board.runs_again();
        let catch_up = answered(config, catch_up::pending(client, given.slot())).await?;
        let mut step = RecallStep { owner: self, known, catch_up, passes_until: None, is_quiet };
        step.list(given, past).await?;
        Ok(step)
    }
}

impl RecallStep {
    /// Lists the rows that wait, where some may have passed by the slot: those of before a point up to which its stream is passed
    /// then. What is read otherwise than when the list was made is listed anew, before the stream is past that.
    async fn list(&mut self, given: Setup<'_>, past: &mut Past) -> Result<(), Fault> {
        let (Setup { config, .. }, client) = (given, given.client());
        let PreflightStep { tables, coverage, .. } = &self.owner.connected.preflighted;
        let confirmed = self.known.confirmed;
        let passes_until = |it: &CatchUp| it.passes_until(confirmed);
        let readings = Readings::of(config, tables);
        let is_passing = self.catch_up.as_ref().and_then(passes_until).is_some();
        let is_other = is_passing && past.listed.as_ref() != Some(&readings);
        let why = match (&self.known.gap, &self.catch_up) {
            (Some(why), _) => {
                warn!(
                    why,
                    "rows may have passed by the slot: those that wait in the table are listed, and published once its \
                     stream is passed up to there"
                );
                why.clone()
            }
            (None, Some(pending)) if is_other => pending.why.clone(),
            _ => {
                self.passes_until = self.catch_up.as_ref().and_then(passes_until);
                return Ok(());
            }
        };
        let since = answered(config, slot::now(client)).await?;
        let listed = catch_up::list_beside(config, client, tables, &why).await?;
        let Owner { taken, session, .. } = &self.owner;
        let identity = &taken.identity;
        let own = RowOwner { identity, session, has_messages: taken.has_messages };
        let place = (confirmed, self.known.memory.publishing_id);
        let kept = record_listed(client, given.slot(), own, place, coverage.digest());
        answered(config, kept).await?;
        info!(rows = listed.total, up_to = %listed.commit_lsn(), "listed the rows that wait");
        (past.listed, past.rewritten_since) = (Some(readings), Some(since));
        self.known.durable = self.known.durable.max(confirmed);
        // Other changes may come of the same transactions.
        self.known.is_doubtful = true;
        self.passes_until = listed.passes_until(confirmed);
        self.catch_up = Some(listed);
        Ok(())
    }

    async fn prepare(mut self, given: Setup<'_>, past: &mut Past) -> Result<PrepareStep, Fault> {
        let (Setup { config, .. }, client) = (given, given.client());
        let away = self.away(given, past).await?;
        let tables = &self.owner.connected.preflighted.tables;
        let (with_away, outboxes) = slot::with_away(config, tables, &away);
        let config = Arc::new(with_away);
        if let Some(CatchUp { why, total, .. }) = &self.catch_up {
            let told = catch_up::tell_orphans(client, given.slot(), &outboxes);
            answered(&config, told).await?;
            if self.passes_until.is_none() {
                info!(
                    why,
                    rows = total,
                    "catching up: listed rows are published before the stream"
                );
            }
        }
        let identity = self.owner.taken.identity.clone();
        let session = &self.owner.session;
        let marker = Marker::prepare(client, &config, &outboxes, identity, session);
        let marker = answered(&config, marker).await?;
        let readings = Readings::of(&config, &outboxes);
        let (are_new, were_read, known_from) =
            self.compare(given, &config, &outboxes, &readings).await?;
        let look_ahead = self.name(given, past).await?;
        if self.passes_until.is_some() {
            // Its turn is once the stream is passed.
            self.catch_up = None;
        }
        Ok(PrepareStep {
            recalled: self,
            config,
            outboxes,
            away,
            marker,
            look_ahead,
            are_new,
            were_read,
            readings,
            known_from,
        })
    }

    /// Finds the sources of which it is not known whether what is before the place was delivered, or passed over, and
    /// keeps what is known of the others. Where there are any, returns where the slot must have come to for that to be over.
    async fn compare(
        &mut self,
        given: Setup<'_>,
        config: &Config,
        outboxes: &[OutboxTable],
        readings: &Readings,
    ) -> Result<(Vec<bool>, BTreeSet<(u32, usize)>, Option<PgLsn>), Fault> {
        let kept = self.known.kept.readings.take();
        if kept.as_ref() == Some(readings) {
            return Ok((Vec::new(), BTreeSet::new(), None));
        }
        let Memory { delivered: Position { commit_lsn, index }, from, .. } = self.known.memory;
        let is_inside = index > 0 || from.is_some();
        // Nothing that is before the place is in the stream any more, nor on a list.
        let is_behind = !is_inside && commit_lsn <= self.known.confirmed;
        let common = kept.as_ref().map_or_else(|| readings.none(), |kept| kept.common(readings));
        let known = if is_behind { readings } else { &common };
        let recorded = record_readings(given.client(), given.slot(), &self.owner.session, known);
        answered(config, recorded).await?;
        let mut are_new = readings.are_new(kept.as_ref(), config, outboxes);
        if is_behind || !are_new.contains(&true) {
            are_new.clear();
        } else {
            info!(
                "tables are read that were not, or otherwise than, before: what the slot still holds of them is published, though it may have been before"
            );
        }
        if config.has_streams() && !are_new.is_empty() {
            // An id of before the place cannot be given out again: all of it gets one anew, under another name.
            self.known.memory = std::mem::take(&mut self.known.memory).without_place();
            self.known.is_doubtful = true;
            are_new.clear();
        }
        let known_from = PgLsn::from(u64::from(commit_lsn) + u64::from(is_inside));
        let were_read = readings.gone(kept.as_ref(), config, &are_new);
        Ok((are_new, were_read, (!is_behind).then_some(known_from)))
    }

    /// Gives the streams the name under which they know events again. Returns for what the session is to look
    /// first, and does not where nothing is published yet.
    async fn name(
        &mut self,
        given: Setup<'_>,
        past: &Past,
    ) -> Result<Option<relay::LookAhead>, Fault> {
        let Setup { config, .. } = given;
        let Owner { connected, taken, session } = &mut self.owner;
        let Some(streams) = connected.publisher.streams() else { return Ok(None) };
        let own = RowOwner { identity: &taken.identity, session, has_messages: taken.has_messages };
        let now = routes::of(config);
        if routes::have_changed(self.known.kept.routes.as_deref(), &now)? {
            info!(
                "events may go to other streams than before: what was in flight may be there twice"
            );
            self.known.is_doubtful = true;
        }
        let (naming, highest) =
            naming(given, &self.known, self.catch_up.is_some(), own, past, streams).await?;
        if let (Naming::LookAhead, Some(highest), Some(name)) = (naming, highest, self.known.name) {
            info!(
                highest,
                "Postgres was started since: whether the last event of the stream is in its WAL is looked first"
            );
            let end = self.known.end_on_disk;
            return Ok(Some(relay::LookAhead::new(highest, name.started, end)));
        }
        let renews = naming != Naming::Keep;
        let named = publishing_name(given.client(), given.slot(), own, renews, &now);
        let reference = answered(config, named).await?;
        // Ids that an earlier session used and nobody knows of follow from what was committed by then.
        let ceiling = relay::ids::ceiling(Position::after_commit(self.known.end));
        let last = self.known.memory.publishing_id;
        let confirmed = self.known.name.filter(|_| !renews).map_or(0, |name| name.confirmed);
        let named = streams.name(&config.amqp, &reference, (ceiling.max(last), confirmed)).await;
        named.map_err(|fault| fault.on(Side::Broker))?;
        Ok(None)
    }

    /// The tables that were configured under another name, and are read to their end.
    async fn away(&self, given: Setup<'_>, past: &mut Past) -> Result<Vec<FormerOutbox>, Fault> {
        let (Setup { config, .. }, client) = (given, given.client());
        let tables = &self.owner.connected.preflighted.tables;
        let mut away = answered(config, slot::away(client, config, tables)).await?;
        let is_all_there = self.catch_up.is_none();
        let durable = self.known.durable;
        away.retain(|it| !(is_all_there && it.until.is_some_and(|until| until <= durable)));
        away.iter_mut().for_each(|it| it.until = it.until.or(Some(self.known.end)));
        let kept = slot::record_outboxes(client, config, tables, &away);
        if let Err(fault) = answered(config, kept).await {
            debug!("which tables are read cannot be kept: {}", fault.what);
        }
        for it in &away {
            let (schema, name) = &it.was;
            let what =
                format!("{schema}.{name} is another table now: that of before is read to its end");
            if past.warned.insert(format!("{what} {}", it.relation())) {
                info!(relation = it.relation(), "{what}");
            }
        }
        Ok(away)
    }
}

impl PrepareStep {
    fn start(self, given: Setup<'_>, past: &Past) -> Result<Session, Fault> {
        let broker = given.broker()?;
        let (rules, memory) = (self.rules(given), self.recalled.known.memory.clone());
        if !self.recalled.is_quiet {
            self.say(broker, &memory);
        }
        let Self { recalled, config, outboxes, marker, look_ahead, readings, known_from, .. } =
            self;
        let RecallStep { owner, known, catch_up, passes_until, is_quiet } = recalled;
        let Owner { connected: BrokerStep { preflighted, publisher }, taken, session: id } = owner;
        let SlotLease { wal, identity, has_messages, blocked } = taken;
        let reached = past.acknowledged(&identity);
        let listed = catch_up.as_ref().map(|it| relay::CatchUpCursor::new(it.consistent_lsn));
        let mut relay = Relay::new(rules, memory, listed);
        relay.set_clock(postgres::now_micros());
        look_ahead.into_iter().for_each(|it| relay.look_ahead(it));
        let spans = past.spans.clone().map(|queue| {
            relay.make_spans();
            let server = otlp::SpanServer { address: broker.host.clone(), port: broker.port };
            (queue, Arc::new(server))
        });
        if config.log.has_events {
            relay.make_lines(config.log.events_one_in);
        }
        let client = &given.audit.client;
        let mut session = Session {
            relay,
            wal,
            broker: BrokerConnection::new(publisher),
            recording: Recording::new(
                &config,
                client,
                (identity, id, has_messages),
                (known.durable, known.memory.publishing_id),
            ),
            bulletin: Bulletin::new(
                given.board,
                &config.log,
                (reached, known.end_on_disk),
                is_quiet,
            ),
            notified: Arc::clone(&given.audit.notified),
            spans,
            unknown: known_from.map(|lsn| (lsn, readings)),
            reached,
            began: Instant::now(),
            started: known.name.map_or(0, |name| name.started),
            effects: Vec::new(),
            blocked,
            jobs: Jobs {
                config: Arc::clone(&config),
                asked: Arc::clone(given.config),
                client: Arc::clone(client),
                marker: Arc::new(marker),
                outboxes: outboxes.into(),
                coverage: Rc::new(RefCell::new(preflighted.coverage)),
                looked: Rc::new(RefCell::new(past.looked.clone())),
                rewritten_since: Rc::new(RefCell::new(past.rewritten_since.clone())),
                renewal: Rc::default(),
                has_layout: preflighted.has_layout,
                catch_up,
                running: FuturesUnordered::new(),
            },
            config,
        };
        session.jobs.watch_rewritten(passes_until.is_some());
        session.bulletin.tell(&session.relay);
        Ok(session)
    }

    fn connected(&self) -> &BrokerStep {
        &self.recalled.owner.connected
    }

    fn rules(&self, given: Setup<'_>) -> Rules {
        let config = &self.config;
        let away_from = given.config.tables.len();
        let away = (away_from..).zip(&self.away);
        Rules {
            tables: config.sources().cloned().collect(),
            oids: self.outboxes.iter().take(away_from).map(|table| table.relation).collect(),
            columns: self.outboxes.iter().map(|table| table.columns.clone()).collect(),
            away: away.map(|(number, it)| (it.relation(), it.was.clone(), number)).collect(),
            limits: self.connected().publisher.limits(),
            window_messages: config.window.messages,
            // A stream drops what it is sent again.
            is_window_fixed: !config.window.is_adaptive || config.has_streams(),
            window_bytes: config.window.bytes,
            is_strict: config.window.is_strict,
            has_streams: config.has_streams(),
            parking: config.parking.clone(),
            audit: config.audit.clone(),
            confirm_timeout: config.amqp.confirm_timeout,
            blocked_timeout: config.amqp.blocked_timeout,
            check_interval: config.postgres.check_interval,
            silence: silence(config),
            leaves: self.connected().preflighted.coverage.leaves(),
            passes_until: self.recalled.passes_until,
            are_new: self.are_new.clone(),
            were_read: self.were_read.clone(),
            share: config.postgres.share,
            former: self.recalled.known.former.clone(),
        }
    }

    fn say(&self, broker: &Broker, memory: &Memory) {
        let config = &self.config;
        let all = |names: Vec<String>| names.join(", ");
        let tables = &config.tables;
        info!(
            slot = config.postgres.slot,
            publication = config.postgres.publication,
            tables = listed(tables.iter().map(Table::title)),
            messages = all(config.messages.iter().map(|it| it.name.clone()).collect()),
            exchanges = all(config.exchanges()),
            streams = all(config.streams().into_iter().map(str::to_owned).collect()),
            broker = format!("{}:{}/{}", broker.host, broker.port, broker.vhost.trim_start_matches('/')),
            start_lsn = %self.recalled.known.confirmed,
            delivered_before = %memory.delivered,
            timeline = self.recalled.owner.taken.identity.timeline,
            window_messages = config.window.messages,
            window_bytes = config.window.bytes,
            "running"
        );
        if !config.messages.is_empty() {
            info!("{}", slot::MESSAGES);
        }
    }
}

/// What follows for the name of before, and the highest id that the broker has under it.
async fn naming(
    given: Setup<'_>,
    known: &progress_row::SlotMemory,
    is_catching_up: bool,
    own: RowOwner<'_>,
    past: &Past,
    streams: &StreamPublisher,
) -> Result<(Naming, Option<u64>), Fault> {
    let before = known.name.and_then(|it| Some((it, it.reference(given.slot(), own.identity)?)));
    let Some((name, reference)) = before else { return Ok((Naming::Doubt, None)) };
    let looked = past.looked_ahead.filter(|(started, _)| *started == name.started);
    let known = KnownName {
        // A list has no ids, and comes before the stream.
        is_doubtful: known.is_doubtful || !name.is_same_start && is_catching_up,
        is_same_start: name.is_same_start,
        settled: name.settled,
        end: known.end,
        looked: looked.map(|(_, found)| found),
    };
    let highest = match known.needs_highest() {
        true => streams.highest(&given.config.amqp, &reference).await,
        false => Ok(None),
    };
    let highest = highest.map_err(|fault| fault.on(Side::Broker))?;
    let naming = known.decide(highest);
    if naming == Naming::Doubt && highest.is_some() {
        warn!(
            hint = "look for consumers that must know of it; what the lost history had delivered stays in the stream",
            name = reference,
            highest,
            "the stream holds events that are not in the WAL of this server, which was restored from a copy: events go there under another name"
        );
    }
    Ok((naming, highest))
}

/// The first of them, and how many more there are: a database may have thousands.
fn listed(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}
