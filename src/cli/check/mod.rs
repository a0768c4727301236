//! `pgoutbox check`: whether everything that `run` needs is in place.

mod broker;
mod certificates;
mod clock;
mod database;
mod filter;
mod greeting;
mod locked;
pub(super) mod marks;
mod refused;
mod relay;
mod stream;

use serde_json::json;

use super::mood::Mood;
use super::status::Live;
use super::{say, say_coloured};
use crate::config::{Config, Needs, Server, Sources, TlsMode};
use crate::error::Fault;
use crate::postgres;
use crate::slot::{Finding, Severity};
use greeting::{Kind, greet};

/// Looks at everything that `run` needs on both servers, and prints how to fix each thing
/// that is wrong. Changes nothing, and takes the slot from nobody. Exit code 1 where anything
/// is wrong.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  pgoutbox check\n  pgoutbox check --json | jq '.findings[] | select(.severity == \"error\")'"
)]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Exit code 1 for warnings too
    #[arg(long)]
    pub strict: bool,
}

/// Looks, prints, and says whether all is well.
///
/// # Errors
/// The configuration is wrong. A server that cannot be reached is a finding.
pub(super) async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::RELAY)?;
    let findings = look(&config).await;
    let worst = findings.iter().map(|finding| finding.severity).min();
    let is_well = match worst {
        Some(Severity::Error) => false,
        Some(Severity::Warning) => !args.strict,
        _ => true,
    };
    if args.json {
        let summary = json!({ "mood": Mood::of(worst).word(), "what": summary(&findings) });
        let findings: Vec<_> = findings.iter().map(as_json).collect();
        crate::cli::say_json(
            json!({ "is_well": is_well, "summary": summary, "findings": findings }),
        );
    } else {
        say_coloured(Mood::of(worst), Mood::of(worst).word(), WIDTH, summary(&findings));
        findings.iter().for_each(print);
    }
    Ok(is_well)
}

/// All findings, the most severe first.
async fn look(config: &Config) -> Vec<Finding> {
    let (postgres, brokers, live) =
        tokio::join!(postgres(config), broker::look(config), Live::ask(config));
    let mut findings: Vec<Finding> = Vec::new();
    for finding in postgres.into_iter().chain(brokers) {
        // One thing is often seen from two sides.
        let is_said = |said: &Finding| {
            let is_like_it = said.hint == finding.hint
                && !is_of_a_table(finding.name)
                && finding.severity != Severity::Good;
            said.name == finding.name
                && said.severity == finding.severity
                && (said.what == finding.what || is_like_it)
        };
        if !findings.iter().any(is_said) {
            findings.push(finding);
        }
    }
    findings.extend(relay::told(&live, &findings));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// There may be several tables of which the same is to be said.
fn is_of_a_table(name: &str) -> bool {
    let kinds = ["table-", "column-", "partition-", "publication-", "mark-", "id-", "replica-"];
    kinds.iter().any(|kind| name.starts_with(kind))
}

async fn postgres(config: &Config) -> Vec<Finding> {
    let (audit, stream) = (&config.postgres.audit, &config.postgres.stream);
    let of_audit = certificates(config, audit).await;
    let way = |server: &Server| (server.hosts().collect::<Vec<_>>(), server.tls.clone());
    let of_stream = match way(audit) == way(stream) {
        true => of_audit.clone(),
        false => certificates(config, stream).await,
    };
    let database = database::look(config).await;
    let stream = stream::look(config).await;
    let stream = stream::in_context(stream, config, &database).into_iter().collect();
    let audit = certificates::before(&of_audit, database.findings);
    let stream = certificates::before(&of_stream, stream);
    // What is of both is said once, by whoever has the whole list.
    [of_audit, of_stream, audit, stream].concat()
}

async fn certificates(config: &Config, server: &Server) -> Vec<Finding> {
    if server.tls.mode == TlsMode::Disable {
        return Vec::new();
    }
    let bound = config.postgres.connect_timeout;
    let mut findings = Vec::new();
    for host in server.hosts().filter(|host| !host.is_socket()) {
        let greeting = greet(Kind::Postgres, (&host.name, host.port), &server.tls, bound).await;
        let place = format!("Postgres at {}", postgres::address(&server.at(host.clone())));
        findings.extend(certificates::findings(
            &place,
            &host.name,
            &server.tls,
            "postgres",
            &greeting,
        ));
    }
    findings
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Good => "good",
        Severity::Unknown => "unknown",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let Finding { name: of, severity, what, hint } = finding;
    json!({ "name": of, "severity": name(*severity), "what": what, "hint": hint })
}

/// Where a line's text begins.
const WIDTH: usize = 8;

/// All of it in a line.
fn summary(findings: &[Finding]) -> String {
    let count = |of: Severity| findings.iter().filter(|finding| finding.severity == of).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let named = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        several => format!("{several} {one}s"),
    };
    let counted = format!("{}, {}", named(errors, "error"), named(warnings, "warning"));
    let first = findings.first().filter(|finding| finding.severity != Severity::Good);
    match (errors + warnings, first) {
        (_, Some(first)) => format!("{}: {counted}; first: {}", first.name, first.what),
        (0, None) => format!("ready: {counted}, {} good", count(Severity::Good)),
        _ => counted,
    }
}

fn print(finding: &Finding) {
    let severity = finding.severity;
    say_coloured(Mood::of(Some(severity)), name(severity), WIDTH, &finding.what);
    if !finding.hint.is_empty() {
        say(format_args!("        hint: {}", finding.hint));
    }
}
