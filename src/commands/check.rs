//! `pgoutbox check`: whether everything that `run` needs is in place.

use serde_json::json;

use super::{connect, say};
use crate::config::{Config, Needs, Sources};
use crate::error::Fault;
use crate::postgres;
use crate::publisher::Publisher;
use crate::slot::{self, Finding, Severity};

/// Looks at everything that `run` needs on both servers, and prints what mends each thing
/// that is wrong. Changes nothing. Exit code 1 where anything is wrong.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    after_help = "Examples:\n  pgoutbox check\n  pgoutbox check --json | jq '.findings[] | select(.severity == \"error\")'"
)]
pub struct Args {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Looks, prints, and says whether all is well.
///
/// # Errors
/// Postgres cannot be asked, or the configuration is wrong.
pub async fn run(args: &Args, sources: &Sources) -> Result<bool, Fault> {
    let config = Config::load(sources, Needs::ALL)?;
    let client = connect(&config).await?;
    let mut findings = slot::preflight(&client, &config).await?.findings;
    findings.extend(stream(&config).await);
    findings.extend(brokers(&config).await);
    let is_well = findings.iter().all(|finding| finding.severity != Severity::Error);
    if args.json {
        let findings: Vec<_> = findings.iter().map(as_json).collect();
        say(format_args!("{:#}", json!({ "is_well": is_well, "findings": findings })));
    } else {
        findings.iter().for_each(print);
    }
    Ok(is_well)
}

fn name(severity: Severity) -> &'static str {
    match severity {
        Severity::Good => "good",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({ "severity": name(finding.severity), "what": finding.what, "mend": finding.mend })
}

fn print(finding: &Finding) {
    say(format_args!("{:8}{}", name(finding.severity), finding.what));
    if !finding.mend.is_empty() {
        say(format_args!("        mend: {}", finding.mend));
    }
}

/// Only the login, and that as an ordinary connection: to read from the slot would take it
/// from a relay.
async fn stream(config: &Config) -> Option<Finding> {
    let server = &config.postgres.stream;
    if *server == config.postgres.audit {
        return None;
    }
    let timeout = config.postgres.connect_timeout;
    Some(match postgres::connect(server, "pgoutbox", timeout, "").await {
        Ok(_) => Finding::good(format!("role \"{}\" logs in", server.user)),
        Err(fault) => Finding::error(fault.what, fault.mend),
    })
}

/// Logs in and opens a channel; publishes and declares nothing. One broker that answers is
/// enough to run.
async fn brokers(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for broker in &config.amqp.brokers {
        findings.push(match Publisher::connect(broker, &config.amqp).await {
            Ok(publisher) => {
                publisher.close().await;
                Finding::good(format!(
                    "RabbitMQ at {}:{} lets \"{}\" in",
                    broker.host, broker.port, broker.user
                ))
            }
            Err(fault) => Finding::error(fault.what, fault.mend),
        });
    }
    if findings.iter().any(|finding| finding.severity == Severity::Good) {
        for finding in &mut findings {
            if finding.severity == Severity::Error {
                finding.severity = Severity::Warning;
            }
        }
    }
    findings
}
