//! Arguments to command, fault to exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::{
    check, completions, config, event, health, init, man, parked, pause, prune, replay, reshard,
    run, schema, size, status, uninstall, verify,
};
use crate::config::{Flags, Sources};
use crate::error::{Class, Fault, with_old_key};
use crate::output;
use crate::slot::cause;
use crate::text::harmless;

/// Relays a Postgres outbox table to RabbitMQ: in commit order, within milliseconds, losing none.
#[derive(Parser)]
#[command(version, after_help = HELP)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Example:
  export DATABASE_URL=postgres://app:secret@localhost/app AMQP_URL=amqp://guest:guest@localhost
  pgoutbox init && pgoutbox check && pgoutbox run

Exit codes:
  0   done; for run: told to stop, and everything in flight is settled
  1   only a person can fix it: the message says how
  64  wrong arguments or settings
  69  a server is not available (run waits instead); for run: told to stop, and not drained in time
  74  standard output cannot be written";

#[derive(Clone, Subcommand)]
enum Command {
    Init(init::Args),
    Check(check::Args),
    /// Relays until SIGTERM or SIGINT; SIGHUP reads the configuration again, SIGUSR1 says more.
    #[command(
        after_help = "Example:\n  DATABASE_URL=postgres://app@localhost/app AMQP_URL=amqp://localhost pgoutbox run"
    )]
    Run,
    Status(status::Args),
    Event(event::Args),
    Prune(prune::Args),
    Parked(parked::Args),
    Pause(pause::Args),
    Resume(pause::ResumeArgs),
    Replay(Box<replay::Args>),
    Verify(verify::Args),
    Reshard(reshard::Args),
    Schema(schema::Args),
    Size(size::Args),
    Config(config::Args),
    Uninstall(uninstall::Args),
    Health(health::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// The program: reads its arguments, does what they say, and answers with the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let printed = error.print();
            if error.use_stderr() {
                return ExitCode::from(64);
            }
            output::keep(printed);
            return end(ExitCode::SUCCESS);
        }
    };
    crate::tls::install_provider();
    keep_to_itself();
    for (flag, instead) in cli.flags.secrets() {
        output::err(harmless(format_args!(
            "warning: {flag} holds a password, which every user of this machine reads in the list of processes\n  hint: {instead}"
        )));
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::definite(format!("no runtime: {error}"), ""))
        .and_then(|runtime| {
            runtime.block_on(async {
                let outcome = carry_out(cli).await;
                crate::postgres::say_goodbye().await;
                outcome
            })
        });
    match outcome {
        Ok(code) => end(code),
        Err(fault) => {
            // A program that reads JSON gets what went wrong as JSON.
            if std::env::args_os().any(|argument| argument == "--json") {
                let mut json = fault.json();
                if let Some(of) = json.pointer_mut("/fault").and_then(|it| it.as_object_mut()) {
                    of.insert("cause".to_owned(), cause(&fault).into());
                }
                let _ = print(&format!("{:#}\n", with_old_key(json)));
            }
            output::err(harmless(format_args!("error: {fault}")));
            ExitCode::from(fault.exit_code())
        }
    }
}

/// Secrets stand in memory and in the environment: no other process of this user looks into either, and no core
/// is dumped. Root can, as ever. Where the system knows no such thing, nothing is lost.
fn keep_to_itself() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// An answer that nobody can read is none, whatever it was.
fn end(code: ExitCode) -> ExitCode {
    output::out(b"");
    let Some(why) = output::failure() else { return code };
    output::err(format_args!("error: standard output cannot be written: {why}"));
    ExitCode::from(output::EXIT_UNWRITTEN)
}

async fn carry_out(cli: Cli) -> Result<ExitCode, Fault> {
    let sources = Sources::of_process(cli.flags);
    if let Command::Run = cli.command {
        return run::run(&sources).await.map(ExitCode::from);
    }
    let again = cli.command.is_of_each().then(|| cli.command.clone());
    let is_well = match (once(cli.command, &sources).await, again) {
        // Where the outbox is spread over several relays, and none is named, it is about each in turn.
        (Err(fault), Some(again)) if fault.class == Class::Usage => {
            of_each(&again, &sources).await.unwrap_or(Err(fault))?
        }
        (outcome, _) => outcome?,
    };
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Command {
    /// It asks or tells each relay that the outbox is spread over the same.
    fn is_of_each(&self) -> bool {
        match self {
            Self::Status(args) => !args.watch,
            Self::Check(_)
            | Self::Verify(_)
            | Self::Prune(_)
            | Self::Pause(_)
            | Self::Resume(_) => true,
            _ => false,
        }
    }
}

/// `None` where the outbox is not spread, or a share is chosen.
async fn of_each(command: &Command, sources: &Sources) -> Option<Result<bool, Fault>> {
    let mut is_well = true;
    for sources in sources.of_each_share()? {
        match once(command.clone(), &sources).await {
            Ok(is_one_well) => is_well &= is_one_well,
            Err(fault) => return Some(Err(fault)),
        }
    }
    Some(Ok(is_well))
}

async fn once(command: Command, sources: &Sources) -> Result<bool, Fault> {
    match command {
        // It has gone its own way.
        Command::Run => Ok(true),
        Command::Init(args) => init::run(&args, sources).await.map(|()| true),
        Command::Check(args) => check::run(&args, sources).await,
        Command::Status(args) => status::run(&args, sources).await,
        Command::Event(args) => event::run(&args, sources).await,
        Command::Prune(args) => prune::run(&args, sources).await,
        Command::Parked(args) => parked::run(&args, sources).await,
        Command::Pause(args) => pause::run(&args, sources).await.map(|()| true),
        Command::Resume(args) => pause::resume(&args, sources).await.map(|()| true),
        Command::Replay(args) => replay::run(&args, sources).await,
        Command::Verify(args) => verify::run(&args, sources).await,
        Command::Reshard(args) => reshard::run(&args, sources).await.map(|()| true),
        Command::Schema(args) => print(&schema::run(&args, sources)?),
        Command::Size(args) => {
            size::run(&args);
            Ok(true)
        }
        Command::Config(args) => print(&config::run(&args, sources)?),
        Command::Uninstall(args) => uninstall::run(&args, sources).await.map(|()| true),
        Command::Health(args) => health::run(&args, sources).await,
        Command::Completions(args) => print(&completions::run(&args, Cli::command())),
        Command::Man(args) => print(&man::run(&args, Cli::command())?),
    }
}

fn print(text: &str) -> Result<bool, Fault> {
    output::out(harmless(text).as_bytes());
    Ok(true)
}
