//! The shipped rules, over what a real relay has really said of itself: Prometheus' own engine
//! judges it as if it stayed so.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::http::get;
use harness::wait_for;
use serde_json::{Value, json};

use crate::setting::{PATIENCE, Setting};

/// How long it stays so, and what the rules say then.
const EVERY: &str = "15s";
const STEPS: u32 = 60;
const JUDGED_AT: &str = "10m";
/// What grows by itself while nothing else happens.
const CLOCKS: [&str; 3] =
    ["pgoutbox_blocked_seconds", "pgoutbox_unsettled_seconds", "pgoutbox_parked_oldest_seconds"];

/// Somebody is woken.
pub fn wake_somebody(metrics: &str) -> Result<()> {
    let critical = "count(ALERTS{alertstate=\"firing\", severity=\"critical\"}) > bool 0";
    judge(metrics, critical, "{}")
}

/// No rule fires, of whatever severity.
pub fn are_quiet(metrics: &str) -> Result<()> {
    judge(metrics, "absent(ALERTS{alertstate=\"firing\"})", "{alertstate=\"firing\"}")
}

fn judge(metrics: &str, expr: &str, labels: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus/alerts.yaml");
    let mut series: Vec<Value> = metrics.lines().filter_map(one).collect();
    ensure!(series.len() > 20, "too little to judge: {metrics}");
    series.push(
        json!({"series": "up{job=\"pgoutbox\", instance=\"a\"}", "values": format!("1x{STEPS}")}),
    );
    let test = json!({
        "rule_files": [rules],
        "evaluation_interval": EVERY,
        "tests": [{
            "interval": EVERY,
            "input_series": series,
            "promql_expr_test": [{
                "expr": expr,
                "eval_time": JUDGED_AT,
                "exp_samples": [{"labels": labels, "value": 1}],
            }],
        }],
    });
    // JSON is YAML.
    let file = directory.path().join("test.yaml");
    std::fs::write(&file, test.to_string())?;
    let output = Command::new("promtool").args(["test", "rules"]).arg(&file).output();
    let output = output.context("promtool: sh tests/setup.sh installs it")?;
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{told}\nof {metrics}");
    Ok(())
}

/// A sample as a series that goes on from it.
fn one(line: &str) -> Option<Value> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let grows = CLOCKS.contains(&name) && value > 0.0;
    let values = if grows { format!("{value}+15x{STEPS}") } else { format!("{value}x{STEPS}") };
    let series = format!("{name}{{job=\"pgoutbox\", instance=\"a\", {labels}");
    Some(json!({"series": series, "values": values}))
}

/// One state of a relay: what is set, what is done, and whether somebody is woken.
struct Case {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    sql: &'static str,
    /// The metric that shows it.
    shows: &'static str,
    wakes: bool,
}

const UNROUTABLE: &str = "INSERT INTO outbox_messages (topic, payload) VALUES ('nowhere', '1')";

const CASES: [Case; 4] = [
    Case {
        name: "all is well",
        settings: &[],
        sql: "SELECT 1",
        shows: "pgoutbox_session_state{state=\"running\"} 1",
        wakes: false,
    },
    Case {
        name: "an event is waited for",
        settings: &[("tables.0.on_failure", "block")],
        sql: UNROUTABLE,
        shows: "pgoutbox_session_state{state=\"waiting\"} 1",
        wakes: true,
    },
    Case {
        name: "an event has failed",
        settings: &[("parking.max_attempts", "1")],
        sql: UNROUTABLE,
        shows: "state=\"failed\",reason=\"returned\"} 1",
        wakes: true,
    },
    Case {
        name: "the publication is gone",
        settings: &[],
        sql: "DROP PUBLICATION pgoutbox",
        shows: "pgoutbox_session_state{state=\"waiting\"} 1",
        wakes: true,
    },
];

#[tokio::test]
async fn what_only_a_person_can_fix_wakes_somebody() -> Result<()> {
    for case in CASES {
        let mut setting = Setting::shared().await?.set("guard.interval", "100ms");
        for (key, value) in case.settings {
            setting = setting.set(key, value);
        }
        let relay = setting.run()?;
        let address = relay.http(PATIENCE).await?;
        relay.reaches("running", PATIENCE).await?;
        setting.sql(case.sql).await?;
        let is_shown = async || {
            let metrics = get(address, "/metrics").await?.body;
            let is_blocked = metrics
                .lines()
                .any(|line| line.starts_with("pgoutbox_blocked_seconds") && !line.ends_with(" 0"));
            let is_it =
                metrics.contains(case.shows) && (is_blocked || !case.shows.contains("waiting"));
            Ok(is_it.then_some(metrics))
        };
        let metrics = wait_for(case.name, PATIENCE, is_shown).await.with_context(|| relay.log())?;
        let judged = if case.wakes { wake_somebody(&metrics) } else { are_quiet(&metrics) };
        judged.context(case.name)?;
        relay.kill9().await?;
    }
    Ok(())
}
