//! What an operator meets, one fault after the other: within ten seconds each says the same wherever one looks: `/readyz`,
//! `/status` (and so the console), `/metrics`, `pgoutbox status`, `pgoutbox check` and the log. docs/faults.md is the table of it.

mod broker;
mod database;
mod settings;
mod streams;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::http::get;
use harness::relay::Relay;
use harness::wait_for;
use serde_json::Value;

use crate::setting::{PATIENCE, Setting};

/// How long it may take until all say it, on a machine that is not busy.
const SOON: Duration = Duration::from_secs(10);

/// What is expected of one fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub name: &'static str,
    /// The code of `/readyz`: a reason against it, or what is degraded.
    pub code: &'static str,
    /// It is a reason: nothing is delivered.
    pub is_down: bool,
    /// Which fault it is, as `check` calls it; empty where the code says it.
    pub cause: &'static str,
    /// What `check` finds beside or instead of that.
    pub check: &'static str,
}

const fn down(name: &'static str, cause: &'static str) -> Fault {
    Fault { name, code: "fault", is_down: true, cause, check: cause }
}

const fn degraded(name: &'static str, code: &'static str, check: &'static str) -> Fault {
    Fault { name, code, is_down: false, cause: "", check }
}

/// A relay, and where it is asked.
pub struct Scene {
    pub setting: Setting,
    pub relay: Relay,
    address: SocketAddr,
}

impl Scene {
    /// Begins it with settings under which the heartbeats are the shipped ones, and tries again soon.
    pub fn begin(setting: &Setting) -> Result<Self> {
        let port = harness::free_port()?;
        let setting = setting
            .clone()
            .set("http.address", &format!("127.0.0.1:{port}"))
            .set("session.backoff_max", "2s")
            .set("guard.interval", "1s");
        let relay = setting.run()?;
        Ok(Self { setting, relay, address: ([127, 0, 0, 1], port).into() })
    }

    pub async fn running(setting: &Setting) -> Result<Self> {
        let scene = Self::begin(setting)?;
        scene.relay.http(PATIENCE).await?;
        scene.is_ready().await?;
        Ok(scene)
    }

    pub async fn is_ready(&self) -> Result<()> {
        wait_for("the relay to be ready", PATIENCE, async || {
            let answer = get(self.address, "/readyz").await?;
            ensure!(answer.code == 200, "{}", answer.body);
            Ok(Some(()))
        })
        .await
        .with_context(|| self.relay.log())
    }

    /// All say it, and the same.
    pub async fn tells(&self, fault: &Fault) -> Result<Told> {
        let began = Instant::now();
        let (list, code) = (if fault.is_down { "reasons" } else { "degraded" }, fault.code);
        let is_it = |reason: &Value| {
            reason["code"] == code && reason["cause"].as_str().unwrap_or_default() == fault.cause
        };
        let what = format!("{}: {code}", fault.name);
        let ready = wait_for(&what, PATIENCE, async || {
            let answer = get(self.address, "/readyz").await?.json()?;
            let all = answer[list].as_array().cloned().unwrap_or_default();
            // What is against it comes first; what is degraded may have company.
            let found = if fault.is_down {
                all.first().filter(|one| is_it(one))
            } else {
                all.iter().find(|one| is_it(one))
            };
            Ok(Some(found.cloned().with_context(|| format!("{answer}"))?))
        });
        let ready = ready.await.with_context(|| self.relay.log())?;
        let after = began.elapsed();
        let told = self.look(fault, list, after, &ready).await;
        told.with_context(|| format!("{}\n{}", fault.name, self.relay.log()))
    }

    async fn look(
        &self,
        fault: &Fault,
        list: &str,
        after: Duration,
        ready: &Value,
    ) -> Result<Told> {
        let hint = ready["hint"].as_str().unwrap_or_default();
        ensure!(!hint.is_empty(), "no hint: {ready}");
        // The console and `/status` have the list of `/readyz`.
        let status = get(self.address, "/status").await?.json()?;
        let shown = status[list].as_array().context("no list")?;
        ensure!(
            shown.iter().any(|one| one["code"] == ready["code"] && one["cause"] == ready["cause"]),
            "{status}"
        );
        let metrics = get(self.address, "/metrics").await?.body;
        let blocked: Vec<&str> = metrics
            .lines()
            .filter_map(|line| {
                line.strip_prefix("pgoutbox_blocked_seconds{reason=\"")?.split_once("\"} ")
            })
            .filter(|(_, lasted)| *lasted != "0")
            .map(|(reason, _)| reason)
            .collect();
        let wanted: &[&str] = if fault.is_down { &[fault.code] } else { &[] };
        ensure!(blocked == wanted, "metrics have {blocked:?}");
        let asked = Asked { setting: &self.setting };
        let first = asked.says(&["status"]).await?;
        let mood = if fault.is_down { "down" } else { "warning" };
        let cause =
            if fault.cause.is_empty() { String::new() } else { format!(", {}", fault.cause) };
        let begins = format!("{mood:<10}{}{cause}: ", fault.code);
        ensure!(first.starts_with(&begins), "status says {first:?}, not {begins:?}");
        let check = asked.found(fault).await?;
        Ok(Told {
            name: fault.name,
            after,
            ready: ready["what"].to_string(),
            status: first,
            check,
            log: self.logged(fault)?,
        })
    }

    /// The line of the log that names it.
    fn logged(&self, fault: &Fault) -> Result<String> {
        let log = self.relay.log();
        let loud = |line: &&str| line.contains(" WARN ") || line.contains("ERROR");
        let named = log.lines().filter(loud).rfind(|line| {
            fault.cause.is_empty() || line.contains(&format!("cause=\"{}\"", fault.cause))
        });
        let is_news = !fault.cause.is_empty() && fault.code != "postgres_silent";
        ensure!(named.is_some() || !is_news, "no line of the log has the cause");
        Ok(named.unwrap_or("(nothing)").to_owned())
    }
}

/// What is asked by commands.
pub struct Asked<'a> {
    pub setting: &'a Setting,
}

impl Asked<'_> {
    /// The first line of what a command says.
    pub async fn says(&self, args: &[&str]) -> Result<String> {
        let output = self.setting.program.output(args).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = told.lines().next().map(str::to_owned);
        first.with_context(|| {
            format!("{args:?} says nothing: {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// What `check` finds, by name.
    pub async fn found(&self, fault: &Fault) -> Result<String> {
        let output = self.setting.program.output(&["check", "--json"]).await?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let findings = told["findings"].as_array().context("no findings")?;
        let bad = findings
            .iter()
            .filter(|one| one["severity"] == "error" || one["severity"] == "warning");
        let names: Vec<&str> = bad.filter_map(|one| one["name"].as_str()).collect();
        // One thing is said once.
        let times = names.iter().filter(|name| **name == fault.check).count();
        ensure!(
            fault.check.is_empty() || times == 1,
            "check finds {names:?}, {} {times} times",
            fault.check
        );
        Ok(names.join(", "))
    }
}

/// What was said of a fault.
pub struct Told {
    name: &'static str,
    after: Duration,
    ready: String,
    status: String,
    check: String,
    log: String,
}

/// Prints it all, and keeps it in a file beside the tests' others.
pub fn print(name: &str, all: &[Told]) -> Result<()> {
    let mut out = String::new();
    for told in all {
        let Told { name, after, ready, status, check, log } = told;
        writeln!(out, "{name}, after {:.1} s", after.as_secs_f64())?;
        writeln!(out, "  readyz  {ready}\n  status  {status}\n  check   {check}\n  log     {log}")?;
    }
    println!("{out}");
    std::fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}.txt")),
        &out,
    )?;
    let late: Vec<_> =
        all.iter().filter(|told| told.after > SOON).map(|told| (told.name, told.after)).collect();
    // On a machine where the tests crowd each other time says little: a heartbeat is what matters.
    ensure!(late.iter().all(|(_, after)| *after < 3 * SOON), "too late: {late:?}");
    Ok(())
}

/// The table of the manual is the list of these tests.
#[test]
fn the_manual_has_the_table() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/faults.md");
    let page = std::fs::read_to_string(&path)?;
    let mut table = String::from(
        "| What is wrong | `/readyz`, `/metrics`, `status`, console | Cause | `check` finds |\n|---|---|---|---|\n",
    );
    for fault in settings::ALL.iter().chain(&database::ALL).chain(&broker::ALL).chain(&streams::ALL)
    {
        let quoted =
            |text: &str| if text.is_empty() { "–".to_owned() } else { format!("`{text}`") };
        let state = if fault.is_down { "down" } else { "degraded" };
        let (code, cause, check) = (fault.code, quoted(fault.cause), quoted(fault.check));
        writeln!(table, "| {} | {state}, `{code}` | {cause} | {check} |", fault.name)?;
    }
    let (before, rest) = page.split_once("<!-- table -->\n").context("no table")?;
    let (found, after) = rest.split_once("<!-- end -->").context("no end")?;
    if std::env::var_os("PGOUTBOX_WRITE").is_some() {
        std::fs::write(&path, format!("{before}<!-- table -->\n{table}<!-- end -->{after}"))?;
        return Ok(());
    }
    ensure!(found == table, "PGOUTBOX_WRITE=1 writes it: {table}");
    Ok(())
}
