//! The model of the parking in the simulated world does what Postgres does: one random script of
//! operations runs on both, by the very statements of the program, and after each step the tables
//! are compared.
//!
//! - `PGOUTBOX_SEED=n` replays one script.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use model::parking::{Note, ParkingTable, Row};
use pgoutbox::testing::config::{Config, Needs, Sources};
use pgoutbox::testing::core::event::pgoutput::{Column, Tuple};
use pgoutbox::testing::core::event::relation::Mapping;
use pgoutbox::testing::core::event::{Position, Refusal};
use pgoutbox::testing::core::parked::{
    Aggregate, Attempt, AttemptOutcome, Head, Park, ParkedState, ParkingBatch, Schedule,
};
use pgoutbox::testing::operator;
use pgoutbox::testing::postgres::ParkingStore;
use pgoutbox::testing::slot;
use tokio_postgres::Client;

use crate::bare::uuid;
use crate::setting::Setting;

const SESSION: &str = "00000000-0000-4000-8000-000000000000";
const SCRIPTS: u64 = 6;
const STEPS: usize = 120;
/// Two tables to an aggregate.
const TABLES: [&str; 2] = ["a", "b"];
/// Long enough for a script, whatever the machine does meanwhile.
const HOUR_MS: u64 = 3_600_000;
const DUE: usize = 64;

/// Both of them, and what the relay knows.
struct Pair<'a> {
    random: fastrand::Rng,
    client: &'a Client,
    store: &'a ParkingStore,
    slot: &'a str,
    mappings: Vec<Arc<Mapping>>,
    model: ParkingTable,
    /// By the model's clock. Time passes by steps of an hour: in Postgres the rows are moved.
    now: u64,
    lsn: u64,
    events: u32,
    setting: &'a Setting,
    /// Events since the tables were truncated: the next id.
    ids: u32,
    /// The event that has an id now.
    places: BTreeMap<String, usize>,
    /// The rows of the outboxes: the event of each, by table and id.
    rows: BTreeMap<(usize, String), usize>,
    /// Postgres' numbers, by the model's.
    seqs: BTreeMap<i64, i64>,
    script: String,
}

fn refusal(random: &mut fastrand::Rng) -> Refusal {
    match random.u8(0..3) {
        0 => Refusal::Nacked,
        1 => Refusal::Returned { why: "312 NO_ROUTE".to_owned() },
        _ => Refusal::Closed { why: "404".to_owned() },
    }
}

impl Pair<'_> {
    fn state(&mut self) -> ParkedState {
        match self.random.u8(0..6) {
            0 => ParkedState::Failed,
            1 => ParkedState::DeadLettered,
            2 => ParkedState::Queued,
            3 => ParkedState::Parked(Duration::ZERO),
            _ => ParkedState::Parked(Duration::from_millis(HOUR_MS - 60_000)),
        }
    }

    async fn park(&mut self) -> Result<Park> {
        self.events += 1;
        self.ids += 1;
        let kinds = [None, Some("order"), Some("Order")];
        let kind = kinds[self.random.usize(0..3)];
        let id = ["7", "8"][self.random.usize(0..2)];
        let aggregate =
            Aggregate::new(kind, (!self.random.bool() || self.random.bool()).then_some(id));
        let state = self.state();
        let is_holding =
            aggregate.is_some() && state != ParkedState::DeadLettered && self.random.u8(0..5) > 0;
        let state =
            if is_holding || state != ParkedState::Queued { state } else { ParkedState::Failed };
        let (id, table) = (uuid(self.ids), self.random.usize(0..2));
        let insert = format!(
            "INSERT INTO {} (id, payload) VALUES ($1::text::uuid, '{{}}') RETURNING xmin::text::bigint",
            TABLES[table]
        );
        let xid: i64 = self.client.query_one(&insert, &[&id]).await?.get(0);
        let place = usize::try_from(self.events)?;
        self.places.insert(id.clone(), place);
        self.rows.insert((table, id.clone()), place);
        Ok(Park {
            number: self.events.into(),
            position: Position { commit_lsn: u64::from(self.events).into(), index: 0 },
            id: Some(id.clone()),
            aggregate,
            mapping: Arc::clone(&self.mappings[table]),
            tuple: Tuple::of_texts([Some(id.as_bytes()), Some(&b"{}"[..])].into_iter())?,
            commit_time: 700_000_000_000_000,
            xid: Some(u32::try_from(xid)?),
            state,
            is_holding,
            refusal: (state != ParkedState::Queued).then(|| refusal(&mut self.random)),
        })
    }

    /// Some of all rows, by the model's numbers.
    fn some(&mut self) -> Vec<i64> {
        let all: Vec<i64> = self.model.rows().map(|row| row.row.seq).collect();
        let count = self.random.usize(0..4).min(all.len());
        (0..count).map(|_| all[self.random.usize(0..all.len())]).collect()
    }

    fn theirs(&self, seqs: &[i64]) -> Vec<i64> {
        seqs.iter().filter_map(|seq| self.seqs.get(seq)).copied().collect()
    }

    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.script, "  {line}");
    }

    async fn step(&mut self) -> Result<()> {
        self.lsn += 1;
        match self.random.u8(0..19) {
            0..=3 => self.write_parks().await,
            4..=6 => self.claim().await,
            7 => self.claim_alone().await,
            8..=9 => self.attempts().await,
            10 => self.discard().await,
            11 => self.retry().await,
            12..=13 => self.look().await,
            14 => self.pause().await,
            15 => self.replay().await,
            16 => self.prune().await,
            17 => self.truncate().await,
            _ => self.pass().await,
        }
    }

    async fn write(&mut self, parking: &ParkingBatch) -> Result<()> {
        let mut of_model = ParkingBatch { parks: parking.parks.clone(), ..ParkingBatch::default() };
        of_model.attempts.clone_from(&parking.attempts);
        let places = &self.places;
        self.model.write(self.now, self.lsn, &of_model, |id| places.get(id).copied());
        let mut theirs = ParkingBatch { parks: parking.parks.clone(), ..ParkingBatch::default() };
        theirs.attempts = parking.attempts.clone();
        for attempt in &mut theirs.attempts {
            attempt.seq = self.seqs.get(&attempt.seq).copied().unwrap_or(-1);
        }
        self.store.write(self.client, &theirs, false).await?;
        Ok(())
    }

    async fn write_parks(&mut self) -> Result<()> {
        let mut parks = Vec::new();
        for _ in 0..self.random.usize(1..4) {
            parks.push(self.park().await?);
        }
        // The stream brings them again.
        let again = if self.random.u8(0..4) == 0 { 2 } else { 1 };
        for _ in 0..again {
            let states: Vec<_> = parks.iter().map(|park| (park.number, park.state)).collect();
            self.say(format_args!("park {states:?}"));
            self.write(&ParkingBatch { parks: parks.clone(), ..ParkingBatch::default() }).await?;
        }
        // By the place: an id may have been used before.
        let sql = "SELECT (commit_lsn - '0/0')::bigint, seq FROM pgoutbox.parked";
        let theirs: BTreeMap<i64, i64> =
            self.client.query(sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        for row in self.model.rows() {
            let place = i64::try_from(row.place)?;
            let seq = theirs.get(&place).with_context(|| format!("{place} is not parked"))?;
            self.seqs.insert(row.row.seq, *seq);
        }
        Ok(())
    }

    async fn claim(&mut self) -> Result<()> {
        let kinds = [None, Some("order"), Some("Order")];
        let kind = kinds[self.random.usize(0..3)];
        let id = ["7", "8"][self.random.usize(0..2)];
        let aggregate = Aggregate::new(kind, Some(id)).context("an aggregate")?;
        let after = match self.random.bool() {
            true => 0,
            false => self.some().first().copied().unwrap_or(0),
        };
        let their_after = self.seqs.get(&after).copied().unwrap_or(0);
        let ours = self.model.claim(self.now, self.lsn, &aggregate, after);
        let theirs = self.store.claim(self.client, &aggregate, their_after).await?;
        self.say(format_args!("claim behind {after} of {aggregate}"));
        match (ours, theirs) {
            (Head::Waits, Head::Waits) | (Head::None, Head::None) => {}
            (
                Head::Claimed { rows, is_tail },
                Head::Claimed { rows: theirs, is_tail: their_tail },
            ) => {
                ensure!(is_tail == their_tail, "{rows:?}: the tail");
                ensure!(rows.len() == theirs.len(), "{rows:?}\n{theirs:?}");
                rows.iter().zip(&theirs).try_for_each(|(ours, theirs)| self.same(ours, theirs))?;
            }
            (ours, theirs) => anyhow::bail!("{ours:?} against {theirs:?}"),
        }
        Ok(())
    }

    fn same(
        &self,
        ours: &pgoutbox::testing::core::parked::ParkedRow,
        theirs: &pgoutbox::testing::core::parked::ParkedRow,
    ) -> Result<()> {
        let mut ours = ours.clone();
        ours.seq = self.seqs.get(&ours.seq).copied().unwrap_or(-1);
        // Which transactions wrote it the model does not know.
        (ours.row.xid, ours.xid_end) = (theirs.row.xid, theirs.xid_end);
        ensure!(ours == *theirs, "{ours:?}\n{theirs:?}");
        Ok(())
    }

    async fn claim_alone(&mut self) -> Result<()> {
        let seqs = self.some();
        self.say(format_args!("claim {seqs:?}"));
        let ours = self.model.claim_alone(self.now, self.lsn, &seqs);
        let theirs = self.store.claim_alone(self.client, &self.theirs(&seqs)).await?;
        ensure!(ours.len() == theirs.len(), "{ours:?}\n{theirs:?}");
        ours.iter().zip(&theirs).try_for_each(|(ours, theirs)| self.same(ours, theirs))
    }

    /// Of some that are claimed, and of others: the answer to a discard may come late.
    async fn attempts(&mut self) -> Result<()> {
        let claimed = self.model.rows().filter(|row| row.is_claimed).map(|row| row.row.seq);
        let mut seqs: Vec<i64> = claimed.collect();
        seqs.extend(self.some().first());
        seqs.sort_unstable();
        seqs.dedup();
        let seqs: Vec<i64> = seqs.into_iter().filter(|_| self.random.bool()).collect();
        let mut attempts = Vec::new();
        for seq in seqs {
            let outcome = match self.random.u8(0..4) {
                0 | 1 => AttemptOutcome::Delivered { attempts: 1, xid: None, moment: None },
                2 => AttemptOutcome::Withdrawn,
                _ => {
                    let mut state = self.state();
                    if state == ParkedState::Queued {
                        state = ParkedState::Failed;
                    }
                    let refusal = refusal(&mut self.random);
                    AttemptOutcome::Refused { attempts: self.random.u32(2..20), state, refusal }
                }
            };
            self.say(format_args!("{seq} was tried: {outcome:?}"));
            attempts.push(Attempt { seq, table: 0, id: None, outcome });
        }
        self.write(&ParkingBatch { attempts, ..ParkingBatch::default() }).await
    }

    async fn discard(&mut self) -> Result<()> {
        let seqs = self.some();
        self.say(format_args!("discard {seqs:?}"));
        let ours = self.model.discard(self.lsn, &seqs);
        let theirs = operator::discard(self.client, self.slot, &self.theirs(&seqs), "").await?;
        let expected = operator::DiscardReport {
            events: i64::try_from(ours.places.len())?,
            freed: i64::try_from(ours.freed)?,
            in_flight: i64::try_from(ours.in_flight)?,
        };
        ensure!(theirs == expected, "{ours:?} against {theirs:?}");
        Ok(())
    }

    async fn retry(&mut self) -> Result<()> {
        let (seqs, is_reset) = (self.some(), self.random.bool());
        self.say(format_args!("retry {seqs:?}"));
        let ours = self.model.retry(self.now, self.lsn, &seqs, is_reset);
        let theirs = self.theirs(&seqs);
        let theirs = operator::retry(self.client, self.slot, &theirs, is_reset, "").await?;
        ensure!(i64::try_from(ours)? == theirs, "{ours} against {theirs}");
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let from = Position { commit_lsn: self.random.u64(0..60).into(), index: 0 };
        let from = self.random.bool().then_some(from);
        self.say(format_args!("look from {from:?}"));
        let ours = self.model.look(self.now, self.lsn, from);
        let theirs = self.store.look(self.client, from).await?;
        let sorted = |looked: Schedule| {
            let Schedule { mut due, mut held, mut waiting, paused_by, ahead, .. } = looked;
            due.iter_mut().for_each(|due| due.seq = 0);
            held.sort();
            waiting.sort();
            (due, held, waiting, paused_by.is_some(), ahead.events)
        };
        let due = |looked: &Schedule| looked.due.iter().map(|due| due.seq).collect::<Vec<_>>();
        ensure!(self.theirs(&due(&ours)) == due(&theirs), "{ours:?}\n{theirs:?}");
        // Of the next one only whether it is within the step of an hour.
        let hours = |looked: &Schedule| looked.next_due.map(|due| due > Duration::from_secs(600));
        ensure!(hours(&ours) == hours(&theirs), "{ours:?}\n{theirs:?}");
        let (ours, theirs) = (sorted(ours), sorted(theirs));
        ensure!(ours == theirs, "{ours:?}\n{theirs:?}");
        Ok(())
    }

    async fn pause(&mut self) -> Result<()> {
        self.model.is_paused = !self.model.is_paused;
        let is_paused = self.model.is_paused;
        self.say(format_args!("paused: {is_paused}"));
        match is_paused {
            true => operator::pause(self.client, self.slot, "").await.map(drop)?,
            false => operator::resume(self.client, self.slot).await.map(drop)?,
        }
        Ok(())
    }

    /// Of records only; they say so where their rows are to be marked.
    async fn replay(&mut self) -> Result<()> {
        let Some(seq) = self.some().first().copied() else { return Ok(()) };
        self.say(format_args!("replay {seq}"));
        let is_record = self.model.replay(self.lsn, seq);
        let theirs = self.seqs.get(&seq).copied().unwrap_or(-1).to_string();
        let output =
            self.setting.program.output(&["replay", "--mark", "--parked", &theirs]).await?;
        ensure!(output.status.success() == is_record, "{output:?}");
        Ok(())
    }

    /// Records that are done with go, and their rows, and no others with their ids.
    async fn prune(&mut self) -> Result<()> {
        self.say(format_args!("prune"));
        let gone = self.model.prune(self.lsn);
        self.rows.retain(|_, place| !gone.contains(place));
        let keep = "UPDATE pgoutbox.parked SET changed_at = now() - interval '1 day'";
        self.client.batch_execute(keep).await?;
        let pruned = self.setting.program.succeed(&["prune", "--keep", "1h", "--json"]).await?;
        let report: serde_json::Value = serde_json::from_str(&pruned)?;
        let tables = report["tables"].as_array().context("tables")?;
        let count: u64 = tables.iter().filter_map(|table| table["parked"].as_u64()).sum();
        ensure!(count == u64::try_from(gone.len())?, "{gone:?} against {pruned}");
        Ok(())
    }

    /// The application empties its tables, and its ids begin again.
    async fn truncate(&mut self) -> Result<()> {
        self.say(format_args!("truncate"));
        self.ids = 0;
        self.rows.clear();
        self.client.batch_execute("TRUNCATE a, b").await?;
        Ok(())
    }

    async fn pass(&mut self) -> Result<()> {
        self.say(format_args!("an hour passes"));
        self.now += HOUR_MS;
        let sql =
            "UPDATE pgoutbox.parked SET next_attempt_at = next_attempt_at - interval '1 hour'";
        self.client.batch_execute(sql).await?;
        Ok(())
    }

    /// Every row, as anybody sees it.
    async fn compare(&self) -> Result<()> {
        let ours: Vec<String> = self.model.rows().map(|row| self.shown(row)).collect();
        let sql = "SELECT concat_ws(' ', parked.seq, event_id, parked.state, place.state, place.head, attempts,
                          coalesce(next_attempt_at <= now(), false), next_attempt_at IS NULL,
                          claimed_at IS NOT NULL, coalesce(reason = 'closed', false)),
                          coalesce(note, '')
                     FROM pgoutbox.parked JOIN pgoutbox.parked_places($1) AS place ON place.seq = parked.seq
                    WHERE slot = $1 ORDER BY parked.seq";
        let rows = self.client.query(sql, &[&self.slot]).await?;
        let theirs: Vec<String> = rows
            .iter()
            .map(|row| {
                let (row, note): (String, String) = (row.get(0), row.get(1));
                format!("{row} {:?}", notes(&note))
            })
            .collect();
        ensure!(ours == theirs, "the model\n{ours:#?}\nPostgres\n{theirs:#?}");
        let sql = "SELECT 0, id::text FROM a UNION ALL SELECT 1, id::text FROM b ORDER BY 1, 2";
        let rows = self.client.query(sql, &[]).await?;
        let theirs: Vec<(usize, String)> = rows
            .iter()
            .map(|row| Ok((usize::try_from(row.get::<_, i32>(0))?, row.get(1))))
            .collect::<Result<_>>()?;
        let ours: Vec<(usize, String)> = self.rows.keys().cloned().collect();
        ensure!(ours == theirs, "rows: the model\n{ours:#?}\nPostgres\n{theirs:#?}");
        Ok(())
    }

    fn shown(&self, row: &Row) -> String {
        let state = |state: ParkedState| match state {
            ParkedState::Parked(_) => "parked",
            ParkedState::Queued => "queued",
            ParkedState::Failed => "failed",
            ParkedState::DeadLettered => "dead_lettered",
        };
        let head = self.model.head(row);
        let stored = if row.is_discarded { "discarded" } else { state(row.state) };
        let stands = match stored {
            _ if !row.is_open() => stored,
            _ if head != row.row.seq => "queued",
            "queued" => "parked",
            other => other,
        };
        let seq = |seq: i64| self.seqs.get(&seq).copied().unwrap_or(-1);
        let head = if row.is_open() { format!("{} ", seq(head)) } else { String::new() };
        let flag = |is: bool| if is { "t" } else { "f" };
        format!(
            "{} {} {stored} {stands} {head}{} {} {} {} {} {:?}",
            seq(row.row.seq),
            row.row.id.as_deref().unwrap_or_default(),
            row.row.attempts,
            flag(row.due.is_some_and(|due| due <= self.now)),
            flag(row.due.is_none()),
            flag(row.is_claimed),
            flag(row.row.is_alone),
            row.notes
        )
    }
}

/// What a note says of an event that was in flight.
fn notes(note: &str) -> Vec<Note> {
    let of = |part: &str| {
        Some(match part {
            _ if part.contains("may have been delivered") => Note::Unknown,
            _ if part.contains("was delivered") => Note::Delivered,
            _ if part.contains("was refused") => Note::Refused,
            _ if part.contains("dead-letter exchange took it") => Note::DeadLettered,
            _ if part.contains("and was not") => Note::Withdrawn,
            _ if part.starts_with("replayed by") => Note::Replayed,
            _ => return None,
        })
    };
    note.split("; ").filter_map(of).collect()
}

#[tokio::test]
async fn the_model_of_the_parking_is_postgres() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "a")
        .set("tables.1.name", "b")
        .set("tables.0.routing_key", "here")
        .set("tables.1.routing_key", "here");
    for table in TABLES {
        setting
            .sql(&format!(
                "CREATE TABLE {table} (id uuid PRIMARY KEY, payload jsonb, relayed_at timestamptz)"
            ))
            .await?;
    }
    setting.init().await?;
    let _consumer = setting.bound("#").await?;
    let variables = [
        ("DATABASE_URL", setting.database_url.as_str()),
        ("AMQP_URL", &setting.amqp_url),
        ("PGOUTBOX_POSTGRES__SLOT", &setting.database),
        ("PGOUTBOX_TABLES__0__NAME", "a"),
        ("PGOUTBOX_TABLES__1__NAME", "b"),
    ];
    let sources = Sources {
        env: variables.map(|(name, value)| (name.into(), value.into())).into(),
        ..Sources::default()
    };
    let config = Config::load(&sources, Needs::POSTGRES)?;
    let client = setting.client().await?;
    let outboxes = slot::preflight(&client, &config).await?.tables;
    let store = ParkingStore::prepare(&client, &config, &outboxes, SESSION).await?;
    let columns = ["id", "payload"].map(|name| Column { name: name.to_owned(), type_oid: 25 });
    let mapping = |table: usize| {
        let mapping = Mapping::compile(table, &config.tables[table], &columns, false);
        mapping.map(Arc::new).map_err(|errors| anyhow::anyhow!("{errors:?}"))
    };
    let seed = std::env::var("PGOUTBOX_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let today =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 86_400;
    // The first are the same for ever, the others are of the day.
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None => (0..SCRIPTS / 2).chain((0..SCRIPTS / 2).map(|n| today * 1_000 + n)).collect(),
    };
    for seed in seeds {
        client
            .batch_execute("TRUNCATE a, b; DELETE FROM pgoutbox.parked; DELETE FROM pgoutbox.pause")
            .await?;
        let mut pair = Pair {
            random: fastrand::Rng::with_seed(seed),
            client: &client,
            store: &store,
            slot: &setting.database,
            mappings: vec![mapping(0)?, mapping(1)?],
            model: ParkingTable::new(DUE),
            now: HOUR_MS,
            lsn: 0,
            events: 0,
            setting: &setting,
            ids: 0,
            places: BTreeMap::new(),
            rows: BTreeMap::new(),
            seqs: BTreeMap::new(),
            script: String::new(),
        };
        for _ in 0..STEPS {
            let mut outcome = pair.step().await;
            if outcome.is_ok() {
                outcome = pair.compare().await;
            }
            outcome.with_context(|| format!("PGOUTBOX_SEED={seed}\n{}", pair.script))?;
        }
    }
    Ok(())
}
