//! Packages of npm that tests use: installed once, into the folder for what tests make. Where npm cannot be had,
//! the test fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folder that holds `node_modules` with a package such as `axe-core@4.10.2`, below `made`, which is
/// `CARGO_TARGET_TMPDIR` of the test.
pub fn installed(made: &Path, package: &str) -> Result<PathBuf> {
    let folder = made.join(package);
    let name = package.rsplit_once('@').map_or(package, |(name, _)| name);
    if folder.join("node_modules").join(name).join("package.json").exists() {
        return Ok(folder);
    }
    // Not where another run would find half of it.
    let making = tempfile::tempdir_in(made)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    let output = npm.arg(making.path()).arg(package).output();
    let output = output.context("npm is missing: sh tests/setup.sh")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    match std::fs::rename(making.path(), &folder) {
        Err(error) if !folder.exists() => Err(error.into()),
        _ => Ok(folder),
    }
}
