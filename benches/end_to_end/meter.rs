//! CPU time of the processes that take part, sampled while they live: a walsender ends with
//! its client, and its last moments are lost, some ticks of the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use harness::usage;
use tokio_postgres::Client;

/// Who uses CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Relay,
    Walsender,
    /// The relay's ordinary sessions on the server, which mark and acknowledge.
    Marker,
    Broker,
    Publisher,
    Recvlogical,
}

#[derive(Clone, Copy)]
struct Reading {
    before: Duration,
    now: Duration,
}

#[derive(Default)]
pub struct Meter {
    readings: BTreeMap<(Who, u32), Reading>,
}

impl Meter {
    /// A process that is there for this measurement only: all its time counts.
    pub fn add_new(&mut self, who: Who, pid: u32) {
        let reading = Reading { before: Duration::ZERO, now: Duration::ZERO };
        self.readings.entry((who, pid)).or_insert(reading);
    }

    /// A process that was there before.
    pub fn add_old(&mut self, who: Who, pid: u32) -> Result<()> {
        let before = exact(pid)?;
        self.readings.insert((who, pid), Reading { before, now: before });
        Ok(())
    }

    pub fn knows(&self, who: Who) -> bool {
        self.readings.keys().any(|(known, _)| *known == who)
    }

    /// Looks for the relay's backends in the client's database. They come and go.
    pub async fn find_backends(&mut self, client: &Client, slot: &str) -> Result<()> {
        let sql = "SELECT pid, true
              FROM pg_stat_activity WHERE application_name LIKE 'pgoutbox/%' AND backend_type = 'client backend' AND datname = current_database()
            UNION ALL
            SELECT active_pid, false FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL";
        for row in client.query(sql, &[&slot]).await? {
            let (pid, is_marker): (i32, bool) = (row.get(0), row.get(1));
            let who = if is_marker { Who::Marker } else { Who::Walsender };
            self.add_new(who, pid.unsigned_abs());
        }
        Ok(())
    }

    /// What was used until now does not count.
    pub fn begin_here(&mut self) {
        self.sample_all();
        self.readings.values_mut().for_each(|reading| reading.before = reading.now);
    }

    /// Reads those that may end at any moment; who has ended keeps the last reading.
    pub fn sample(&mut self) {
        self.read(|who| who != Who::Broker);
    }

    /// Reads all. The broker has many threads: reading them often would cost what is measured.
    pub fn sample_all(&mut self) {
        self.read(|_| true);
    }

    fn read(&mut self, is_wanted: impl Fn(Who) -> bool) {
        for ((who, pid), reading) in &mut self.readings {
            if is_wanted(*who) {
                // Threads that have ended are not in the exact sum: it must not go back.
                reading.now = exact(*pid).map_or(reading.now, |now| now.max(reading.now));
            }
        }
    }

    /// Time used since the beginning.
    pub fn used(&self, who: Who) -> Option<Duration> {
        let readings = self.readings.iter().filter(|((whose, _), _)| *whose == who);
        let mut used = readings.map(|(_, reading)| reading.now.saturating_sub(reading.before));
        used.next().map(|first| first + used.sum::<Duration>())
    }
}

/// The broker's threads stay; of those that end, the ticks are kept.
fn exact(pid: u32) -> Result<Duration> {
    Ok(usage::cpu_exact(pid)?.max(usage::cpu(pid)?))
}
