//! The wall clock jumps, back and forth, for the relay alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::round::{Allowed, Outcome, Round, Skipped, Stage};
use harness::setting::Setting;

/// Stands between the program and the C library's clock; built by the compiler that Rust links
/// with.
const SOURCE: &str = include_str!("clock.c");

fn build(home: &Path) -> Result<PathBuf> {
    let (source, library) = (home.join("clock.c"), home.join("clock.so"));
    std::fs::write(&source, SOURCE)?;
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output();
    match compiled {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => {
            Err(Skipped(format!("cc: {}", String::from_utf8_lossy(&output.stderr))).into())
        }
        Err(error) => Err(Skipped(format!("no cc: {error}")).into()),
    }
}

pub async fn jumps(round: Round) -> Result<Outcome> {
    let home = tempfile::tempdir()?;
    let library = build(home.path())?;
    let offset = home.path().join("offset");
    let jump = |seconds: i64| {
        // By a rename: nobody reads half a number.
        let next = home.path().join("next");
        std::fs::write(&next, format!("{seconds}\n"))?;
        std::fs::rename(&next, &offset).context("offset")
    };
    jump(0)?;
    let mut setting = Setting::shared().await?;
    setting.env("LD_PRELOAD", library.to_str().context("no UTF-8")?);
    setting.env("PGOUTBOX_TEST_CLOCK", offset.to_str().context("no UTF-8")?);
    let mut stage = Stage::start(&round, setting).await?;
    let day = 86_400;
    let jumps = if round.is_long { 12 } else { 5 };
    for _ in 0..jumps {
        stage.moment().await?;
        jump(match fastrand::u8(0..4) {
            0 => fastrand::i64(-5..5),
            1 => fastrand::i64(-day..day),
            2 => -3_000 * day,
            _ => 3_000 * day,
        })?;
        if fastrand::u8(0..3) == 0 {
            stage.relay.kill9().await?;
            stage.run()?;
        }
    }
    // The program believes it.
    jump(-3_000 * day)?;
    stage.relay.kill9().await?;
    stage.run()?;
    stage.repaired().await?;
    let years_ago = jiff::Timestamp::now() - jiff::Span::new().hours(3_000 * 24);
    stage.relay.wait_for_log(&years_ago.to_string()[..4], round.patience()).await?;
    stage.judge(Allowed::default()).await
}
