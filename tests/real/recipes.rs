//! Recipes of the manual: each command is taken from its page, and done beside writers and consumers that go on.

mod cloudevents;
mod consuming;
mod examples;
mod moving_in;
mod shop;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::relay::Relay;

use crate::setting::Setting;

/// The table of a poller, as it might have been there before.
pub(crate) const OUTBOX: &str = "
    CREATE TABLE outbox_messages (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregate_type text, aggregate_id text, event_type text,
        topic text, payload jsonb NOT NULL, headers jsonb NOT NULL DEFAULT '{}',
        occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(), relayed_at timestamptz)";

/// The blocks of a page whose fence says this step, one after the other.
fn step(page: &str, step: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = std::fs::read_to_string(&path)?;
    let mut is_open = false;
    let mut found = String::new();
    for line in text.lines().map(str::trim_start) {
        match line.strip_prefix("```") {
            Some(info) => is_open = !is_open && info.split_once(' ').is_some_and(|it| it.1 == step),
            None if is_open => found.extend([line, "\n"]),
            None => {}
        }
    }
    ensure!(!found.is_empty(), "docs/{page} has no step {step:?}");
    Ok(found)
}

/// Runs the commands of a step; what the last one but `run` printed, and the relay that `run` began.
async fn follow(setting: &Setting, commands: &str) -> Result<(String, Option<Relay>)> {
    let (mut told, mut relay) = (String::new(), None);
    for line in commands.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((&"pgoutbox", args)) = words.split_first() else {
            anyhow::bail!("{line:?} is no command of pgoutbox");
        };
        match args.first() {
            Some(&"run") => relay = Some(setting.program.spawn(args)?),
            _ => told = setting.program.succeed(args).await?,
        }
    }
    Ok((told, relay))
}

/// A folder that is made once, in that for what tests make. Where it cannot be made, the test fails.
pub(crate) fn made_once(name: &str, make: impl FnOnce(&Path) -> Command) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        return Ok(folder);
    }
    // Not where another run would find half of it.
    let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let output = make(making.path()).output();
    let output = output.with_context(|| format!("for {name}: sh tests/setup.sh"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    match std::fs::rename(making.path(), &folder) {
        Err(error) if !folder.exists() => Err(error.into()),
        _ => Ok(folder),
    }
}
