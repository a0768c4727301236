//! Where Postgres' own programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(super) const OLDEST: u32 = 14;

#[derive(Clone, Debug)]
pub(super) struct Binaries {
    directory: PathBuf,
    /// The major version.
    pub version: u32,
}

impl Binaries {
    /// `PGOUTBOX_TEST_POSTGRES` (a directory with `postgres` and `initdb`), else `pg_config`'s, else `PATH`'s, else the
    /// newest of Debian's.
    pub(super) fn find() -> Result<Binaries> {
        if let Some(directory) = std::env::var_os("PGOUTBOX_TEST_POSTGRES") {
            return Binaries::at(Path::new(&directory)).context("PGOUTBOX_TEST_POSTGRES");
        }
        let found = pg_config()
            .into_iter()
            .chain(path())
            .find_map(|directory| Binaries::at(&directory).ok());
        found.or_else(debian).with_context(|| {
            format!("no Postgres {OLDEST} or newer found: run tests/setup.sh, or set PGOUTBOX_TEST_POSTGRES to its bin directory")
        })
    }

    pub(super) fn at(directory: &Path) -> Result<Binaries> {
        for name in ["postgres", "initdb"] {
            if !directory.join(name).is_file() {
                bail!("no {name} in {}", directory.display());
            }
        }
        let directory = directory.canonicalize()?;
        let version = output(Command::new(directory.join("postgres")).arg("--version"))?;
        let version =
            major(&version).with_context(|| format!("cannot read a version in {version:?}"))?;
        if version < OLDEST {
            bail!("{} is Postgres {version}, older than {OLDEST}", directory.display());
        }
        Ok(Binaries { directory, version })
    }

    pub(super) fn command(&self, name: &str) -> Command {
        Command::new(self.directory.join(name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.directory.join(name).is_file()
    }
}

fn pg_config() -> Option<PathBuf> {
    output(Command::new("pg_config").arg("--bindir")).ok().map(|bin| PathBuf::from(bin.trim()))
}

fn path() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn debian() -> Option<Binaries> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .filter_map(|version| Binaries::at(&version.path().join("bin")).ok())
        .max_by_key(|found| found.version)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, or `18beta1`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn major_version() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta2"), Some(19));
        assert_eq!(major("postgres"), None);
    }
}
