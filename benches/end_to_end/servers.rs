//! The private servers, and what the relay needs in them.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::postgres::{self, Postgres};
use harness::rabbitmq::{self, RabbitMq};
use harness::relay::Pgoutbox;
use harness::usage;
use tokio_postgres::Client;

use crate::arguments::Arguments;

/// Where the events are published, by the relay and by what stands in for it.
pub const EXCHANGE: &str = "outbox";
/// What is quiet: less than this share of a core, for a while.
const QUIET: f64 = 0.1;

#[derive(Clone)]
pub struct Servers {
    pub postgres: Rc<Postgres>,
    pub rabbitmq: Rc<RabbitMq>,
    pub database: String,
    pub vhost: String,
    /// The broker's process.
    pub beam: u32,
    binary: PathBuf,
    settings: Vec<String>,
    /// Other relays, as they were given.
    beside: Vec<String>,
}

impl Servers {
    pub async fn start(arguments: &Arguments) -> Result<Self> {
        let options = postgres::Options {
            fsync: arguments.fsync,
            conf: arguments.postgres_conf.clone(),
            ..Default::default()
        };
        let rabbitmq =
            rabbitmq::Options { spare_vhosts: 1, has_streams: true, ..Default::default() };
        let (postgres, rabbitmq) =
            tokio::try_join!(Postgres::start(options), RabbitMq::start(rabbitmq))?;
        let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
        let beam = beam(&rabbitmq).await?;
        let built = PathBuf::from(env!("CARGO_BIN_EXE_pgoutbox"));
        let binary = arguments.relay.clone().unwrap_or(built);
        let binary = binary.canonicalize().with_context(|| binary.display().to_string())?;
        let settings = arguments.settings.clone();
        let (postgres, rabbitmq) = (Rc::new(postgres), Rc::new(rabbitmq));
        let beside = arguments.beside.clone();
        let servers = Self { postgres, rabbitmq, database, vhost, beam, binary, settings, beside };
        servers.make_outbox().await?;
        Ok(servers)
    }

    /// Each relay that is to be measured, by a name: the usual one first.
    pub fn relays(&self) -> Result<Vec<(String, Self)>> {
        let mut relays = vec![("relay".to_owned(), self.clone())];
        for given in &self.beside {
            let mut other = self.clone();
            match given.contains('=') {
                true => other.settings.extend(given.split(',').map(str::to_owned)),
                false => {
                    let binary = Path::new(given).canonicalize();
                    other.binary = binary.with_context(|| given.clone())?;
                }
            }
            relays.push((given.clone(), other));
        }
        Ok(relays)
    }

    /// Another database with an outbox of its own, on the same servers.
    pub async fn beside(&self) -> Result<Self> {
        let database = self.postgres.create_database().await?;
        let servers = Self { database, ..self.clone() };
        servers.make_outbox().await?;
        Ok(servers)
    }

    async fn make_outbox(&self) -> Result<()> {
        self.program("bench_init", &[]).succeed(&["init", "--declare"]).await?;
        self.drop_slots().await
    }

    /// Gives the disk back what is in it.
    pub async fn remove(self) -> Result<()> {
        self.drop_slots().await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        Ok(self.postgres.connect("postgres").await?.batch_execute(&sql).await?)
    }

    /// The broker's process is another after a restart.
    pub async fn look_for_beam(&mut self) -> Result<()> {
        self.beam = beam(&self.rabbitmq).await?;
        Ok(())
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn database_url(&self) -> String {
        self.postgres.url(&self.database)
    }

    pub fn amqp_url(&self) -> String {
        self.rabbitmq.url(&self.vhost)
    }

    pub async fn client(&self) -> Result<Client> {
        self.postgres.connect(&self.database).await
    }

    /// The relay on this slot, with settings as `section.key=value`.
    pub fn program(&self, slot: &str, settings: &[String]) -> Pgoutbox {
        let program = Pgoutbox::at(&self.binary)
            .env("DATABASE_URL", self.database_url())
            .env("AMQP_URL", self.amqp_url())
            .env("PGOUTBOX_POSTGRES__SLOT", slot);
        let all = self.settings.iter().chain(settings);
        all.filter_map(|setting| setting.split_once('=')).fold(program, |program, (key, value)| {
            let name = key.replace('.', "__").to_ascii_uppercase();
            program.env(&format!("PGOUTBOX_{name}"), value)
        })
    }

    /// What was given for it on the command line.
    pub fn setting(&self, key: &str) -> Option<&str> {
        let given = self.settings.iter().rev().filter_map(|setting| setting.split_once('='));
        given.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// A slot whose stream begins here.
    pub async fn make_slot(&self, slot: &str) -> Result<()> {
        let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        self.client().await?.execute(sql, &[&slot]).await?;
        Ok(())
    }

    /// All slots of the database, once their readers are gone, and what the relay knows of them.
    pub async fn drop_slots(&self) -> Result<()> {
        let client = self.client().await?;
        let patience = Duration::from_secs(30);
        harness::wait_until("the slots to be free", patience, async || {
            let sql = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()";
            Ok(client.query_one(sql, &[]).await?.get::<_, i64>(0) == 0)
        })
        .await?;
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database();
            DELETE FROM pgoutbox.progress";
        Ok(client.batch_execute(sql).await?)
    }

    /// An empty outbox, and no slot.
    pub async fn empty(&self) -> Result<()> {
        self.drop_slots().await?;
        let sql = "TRUNCATE public.outbox_messages, pgoutbox.relayed, pgoutbox.parked; CHECKPOINT";
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    /// Writes dirty pages, then waits until neither server does anything, for some time at most: a
    /// background job that goes on is the same for anyone who is measured next.
    pub async fn be_quiet(&self) -> Result<()> {
        self.client().await?.batch_execute("CHECKPOINT").await?;
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut quiet = 0;
        while quiet < 3 && Instant::now() < deadline {
            let (before, since) = (self.cpu()?, Instant::now());
            tokio::time::sleep(Duration::from_millis(200)).await;
            let share = (self.cpu()? - before) / since.elapsed().as_secs_f64();
            quiet = if share < QUIET { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// After a case that failed in the middle: its relay is gone, the broker may be down.
    pub async fn repair(&mut self) -> Result<()> {
        if !self.rabbitmq.is_running() {
            self.rabbitmq.start_again().await?;
            self.look_for_beam().await?;
        }
        self.drop_slots().await
    }

    /// CPU time of both servers so far.
    fn cpu(&self) -> Result<f64> {
        let postmaster = self.postgres.pid()?;
        let mut sum = usage::cpu(self.beam)? + usage::cpu_of_ended_children(postmaster)?;
        for child in children(postmaster) {
            // One that has ended is among the ended ones.
            sum += usage::cpu(child).unwrap_or_default();
        }
        Ok(sum.as_secs_f64())
    }

    /// What differs from a fresh installation.
    pub async fn postgres_settings(&self, fsync: bool) -> Result<String> {
        let sql = "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name) FROM pg_settings
            WHERE source = 'configuration file' AND name ~ '^(wal_level|fsync|full_page|shared_buf|max_wal|synchr|checkp|autov|max_repl|logical_dec)'";
        let told: Option<String> = self.client().await?.query_one(sql, &[]).await?.get(0);
        let durable = if fsync { "" } else { " (--fsync turns fsync and full_page_writes on)" };
        Ok(told.unwrap_or_default() + durable)
    }
}

/// Processes whose parent this is.
pub fn children(parent: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    told.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

async fn beam(rabbitmq: &RabbitMq) -> Result<u32> {
    let told = rabbitmq.ctl(&["eval", "os:getpid()."]).await?;
    told.trim().trim_matches('"').parse().with_context(|| told.clone())
}
