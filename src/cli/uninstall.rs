//! `pgoutbox uninstall`: takes back what `init` made, save the outbox table, and what another relay
//! in the database needs.

use std::io::IsTerminal;
use std::time::Duration;

use tokio_postgres::Client;

use super::{connect, say, schema};
use crate::config::{Config, Needs, Sources};
use crate::error::{Fault, codes};
use crate::output;
use crate::postgres::sql;
use crate::postgres::{self, column, query};
use crate::slot::{self, SlotState};
use crate::within::within;

/// Drops the slot, the publication and schema pgoutbox. Never the outbox table. Where another
/// relay's slot is in the database, the schema and the publication stay
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:\n  pgoutbox uninstall\n  pgoutbox uninstall --yes")]
pub(super) struct Args {
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Take the slot from a relay that is using it, and give up parked events that have no row
    #[arg(long)]
    pub force: bool,
}

/// How long a walsender that was asked to end may take.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Drops them, after confirmation.
///
/// # Errors
/// The slot is in use or somebody else's; nothing was dropped then.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<(), Fault> {
    let asked = Config::load(sources, Needs::POSTGRES)?;
    let client = connect(&asked).await?;
    let shares = asked.of_each_share();
    let mut looked = Vec::new();
    for config in &shares {
        let name = &config.postgres.slot;
        let slot = slot::state(&client, name).await?;
        if let Some(slot) = &slot {
            refuse(args, config, slot)?;
        }
        let own: Vec<_> = shares.iter().map(|share| share.postgres.slot.as_str()).collect();
        let mut others = others(&client, name).await?;
        others.retain(|other| !own.contains(&other.as_str()));
        let lost = Lost::look(&client, name, others.is_empty()).await?;
        lost.refuse(args)?;
        lost.told().iter().for_each(say);
        looked.push((config, slot, others));
    }
    if !args.yes && !confirm(&looked)? {
        say("nothing was dropped");
        return Ok(());
    }
    let last = looked.len().saturating_sub(1);
    for (number, (config, slot, others)) in looked.into_iter().enumerate() {
        if slot.is_some_and(|slot| slot.is_active) {
            end_walsender(&client, &config.postgres.slot).await?;
        }
        // What all have goes with the last.
        let is_all = others.is_empty() && number == last;
        dropped(&client, config, &others, is_all).await?;
        if !is_all && number == last && config.postgres.share.is_some() {
            let slot = [("slot", config.postgres.shards.slot.as_str())];
            postgres::execute(&client, &sql::render(sql::SHARDS_FORGET, &slot)?).await?;
        }
    }
    Ok(())
}

/// Drops what is of one slot; with `is_all`, the schema too.
async fn dropped(
    client: &Client,
    config: &Config,
    others: &[String],
    is_all: bool,
) -> Result<(), Fault> {
    let (name, publication) = (&config.postgres.slot, &config.postgres.publication);
    if is_all {
        postgres::execute(client, &schema::uninstall(config)?).await?;
        say(format_args!(
            "dropped slot {name}, publication {publication} and schema pgoutbox; kept your tables"
        ));
        return Ok(());
    }
    postgres::execute(client, &schema::uninstall_share(config)?).await?;
    let quoted = sql::identifier(publication);
    if config.postgres.share.is_some() {
        // Nobody else reads that of a share.
        postgres::execute(client, &format!("DROP PUBLICATION IF EXISTS {quoted}")).await?;
        say(format_args!(
            "dropped slot {name}, publication {publication}, and what schema pgoutbox held of them"
        ));
        return Ok(());
    }
    let others = others.join(", ");
    say(format_args!(
        "dropped slot {name}, and what schema pgoutbox held of it; kept the schema, which the relay of {others} needs, publication {quoted} and your tables"
    ));
    say(format_args!("        hint: DROP PUBLICATION {quoted};  -- if no other relay reads it"));
    Ok(())
}

/// What goes with it, and stands nowhere else.
#[derive(Default)]
struct Lost {
    /// Parked events of `[[messages]]`: they have no row.
    messages: i64,
    parked: i64,
    discarded: i64,
    /// Of tables with `audit.mode = "side_table"`.
    marks: i64,
}

impl Lost {
    /// `is_all`: the marks go too, which are no slot's.
    async fn look(client: &Client, slot: &str, is_all: bool) -> Result<Self, Fault> {
        let rows =
            match query(client, &sql::render(sql::INIT_UNINSTALL_LOST, &[("slot", slot)])?).await {
                // Nothing is there, or a schema of an earlier version.
                Err(fault)
                    if fault.is_code(codes::UNDEFINED_TABLE)
                        || fault.is_code(codes::UNDEFINED_COLUMN) =>
                {
                    return Ok(Self::default());
                }
                rows => rows?,
            };
        let Some(row) = rows.first() else { return Ok(Self::default()) };
        let marks = if is_all { column(row, "marks")? } else { 0 };
        Ok(Self {
            messages: column(row, "messages")?,
            parked: column(row, "parked")?,
            discarded: column(row, "discarded")?,
            marks,
        })
    }

    /// What nobody could send again takes one word more.
    fn refuse(&self, args: &Args) -> Result<(), Fault> {
        if self.messages == 0 || args.force {
            return Ok(());
        }
        Err(Fault::definite(
            format!(
                "{} parked events of [[messages]] have no row: they would be lost",
                self.messages
            ),
            "pgoutbox parked list; have them delivered, or discard them; or give them up: pgoutbox uninstall --force",
        ))
    }

    /// A line about each.
    fn told(&self) -> Vec<String> {
        let all = [
            (self.messages, "parked events of [[messages]] go, and are nowhere else"),
            (
                self.parked,
                "parked events lose their place: a relay that comes later publishes their rows in the order of the table",
            ),
            (
                self.discarded,
                "records of discarded events go: a relay that comes later publishes their rows",
            ),
            (
                self.marks,
                "marks in pgoutbox.relayed go: a relay that comes later publishes those rows again",
            ),
        ];
        let all = all.into_iter().filter(|(count, _)| *count > 0);
        all.map(|(count, what)| format!("{count} {what}")).collect()
    }
}

/// The slots of other relays in the database.
async fn others(client: &Client, name: &str) -> Result<Vec<String>, Fault> {
    match query(client, &sql::render(sql::SLOT_OTHERS, &[("slot", name)])?).await {
        // Nothing is there, or no more.
        Err(fault) if fault.is_code(codes::UNDEFINED_TABLE) => Ok(Vec::new()),
        rows => rows?.iter().map(|row| column(row, "slot")).collect(),
    }
}

fn refuse(args: &Args, config: &Config, slot: &SlotState) -> Result<(), Fault> {
    let name = &config.postgres.slot;
    let database = slot.database.as_deref().unwrap_or("none");
    if slot.plugin.as_deref() != Some("pgoutput") || database != config.postgres.audit.database {
        return Err(Fault::definite(
            format!(
                "slot \"{name}\" is not pgoutbox's: its plugin is {}, its database {database}",
                slot.plugin.as_deref().unwrap_or("none")
            ),
            "correct postgres.slot in the configuration",
        ));
    }
    if slot.is_active && !args.force {
        let pid = slot.active_pid.unwrap_or_default();
        return Err(Fault::definite(
            format!("slot \"{name}\" is in use by pid {pid}"),
            "stop the relay first, or say --force",
        ));
    }
    Ok(())
}

fn confirm(looked: &[(&Config, Option<SlotState>, Vec<String>)]) -> Result<bool, Fault> {
    let Some((config, _, others)) = looked.first() else { return Ok(false) };
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Fault::usage(
            "uninstall asks before it drops, and nobody is there to answer",
            "pgoutbox uninstall --yes",
        ));
    }
    let slots = looked.iter().map(|(config, slot, _)| {
        let lag = slot.as_ref().and_then(|slot| slot.confirmed_lag_bytes).unwrap_or_default();
        format!("slot {} (with {lag} bytes of WAL not yet acknowledged)", config.postgres.slot)
    });
    let slots = slots.collect::<Vec<_>>().join(", ");
    let names = looked.iter().map(|(config, ..)| config.postgres.publication.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let what = match others.as_slice() {
        [] => format!("publication {names} and schema pgoutbox"),
        _ => format!("and what schema pgoutbox holds of it, not of {},", others.join(", ")),
    };
    let question = format!(
        "This drops {slots}, {what} in database {}. Your tables stay. Type yes: ",
        config.postgres.audit.database
    );
    output::out(question.as_bytes());
    let mut answer = String::new();
    let _ = stdin.read_line(&mut answer);
    Ok(answer.trim() == "yes")
}

/// A relay that is alive takes the slot again within a second, so it is asked for until the
/// slot is free for a moment; the drop then follows at once.
async fn end_walsender(client: &Client, name: &str) -> Result<(), Fault> {
    let terminate = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
         WHERE slot_name = {} AND active",
        sql::literal(name)
    );
    let ended = async {
        loop {
            if query(client, &terminate).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(TERMINATE_TIMEOUT, ended, |_| {
        Fault::transient(format!("slot \"{name}\" is still in use")).hint("stop the relay first")
    })
    .await
}
