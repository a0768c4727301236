//! What bounds any relay on this machine: (a) `pg_recvlogical` that reads the same backlog from
//! a slot of its own, (b) a bare publisher of as many messages of the same size, (c) both at
//! once. A relay does both; it cannot be quicker than (c) but by luck.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::bare;
use crate::child::Running;
use crate::fill::{Backlog, Shape};
use crate::follow::Follow;
use crate::meter::Who;
use crate::queue::Queue;
use crate::report::{PUBLISHER_CPU, RATE, RECVLOGICAL_CPU, Run, START};
use crate::servers::Servers;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    Read,
    Publish,
    Both,
}

impl Ceiling {
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "a: pg_recvlogical",
            Self::Publish => "b: bare publisher",
            Self::Both => "c: both at once",
        }
    }

    pub fn reads(self) -> bool {
        self != Self::Publish
    }

    fn publishes(self) -> bool {
        self != Self::Read
    }

    /// One drain of the backlog.
    pub async fn drain(
        self,
        servers: &Servers,
        queue: &mut Queue,
        slot: &str,
        backlog: &Backlog,
        shape: Shape,
        run: &mut Run,
    ) -> Result<()> {
        let mut follow = Follow::begin(servers, slot, backlog.events).await?;
        let since = Instant::now();
        let mut reader = self.reads().then(|| recvlogical(servers, slot, backlog)).transpose()?;
        let mut publisher =
            self.publishes().then(|| bare::start(servers, backlog.events, shape)).transpose()?;
        if let Some(reader) = &reader {
            follow.meter.add_new(Who::Recvlogical, reader.pid());
        }
        if let Some(publisher) = &publisher {
            follow.meter.add_new(Who::Publisher, publisher.pid());
        }
        let is_done =
            |child: &mut Option<Running>| child.as_mut().map_or(Ok(true), Running::is_done);
        let queue = self.publishes().then_some(queue);
        follow.until(queue, || is_done(&mut reader)).await?;
        // Its confirms come last: they are no part of the time, but must be good.
        let patience = std::time::Duration::from_secs(30);
        let ended =
            harness::wait_until("the publisher", patience, async || is_done(&mut publisher));
        ended.await?;
        match follow.first {
            Some(first) => {
                run.set(RATE, follow.rate().context("nothing came")?);
                run.set(START, (first.at - since).as_secs_f64() * 1e3);
            }
            None => run.set(RATE, backlog.events as f64 / (follow.end - since).as_secs_f64()),
        }
        follow.tell(run, Who::Recvlogical, RECVLOGICAL_CPU);
        follow.tell(run, Who::Publisher, PUBLISHER_CPU);
        follow.tell_servers(run);
        Ok(())
    }
}

/// Reads up to the last row, which is behind the end position.
fn recvlogical(servers: &Servers, slot: &str, backlog: &Backlog) -> Result<Running> {
    let mut command = servers.postgres.program("pg_recvlogical");
    command.args(["--start", "--no-loop", "--file=/dev/null", "--host=127.0.0.1"]);
    command.args(["--username=postgres", "--option=proto_version=1"]);
    command.arg("--option=publication_names=pgoutbox");
    command.arg(format!("--port={}", servers.postgres.port()));
    command.arg(format!("--dbname={}", servers.database));
    command.arg(format!("--slot={slot}")).arg(format!("--endpos={}", backlog.end));
    Running::spawn("pg_recvlogical", command)
}
