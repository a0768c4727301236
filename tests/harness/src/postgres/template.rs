//! `initdb` once per process and version; every server starts from a copy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Result, anyhow, bail};

use super::binaries::Binaries;
use crate::reaper;
use crate::user::User;

static TEMPLATES: Mutex<Option<HashMap<u32, PathBuf>>> = Mutex::new(None);

/// Fills `data`, which must not exist, with a fresh cluster: superuser `postgres`, password `postgres`.
pub(super) fn copy_to(data: &Path, binaries: &Binaries, user: Option<User>) -> Result<()> {
    let template = template(binaries, user)?;
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template).arg(data))
}

fn template(binaries: &Binaries, user: Option<User>) -> Result<PathBuf> {
    let mut templates = TEMPLATES.lock().map_err(|_| anyhow!("an initdb failed before"))?;
    let templates = templates.get_or_insert_default();
    if let Some(template) = templates.get(&binaries.version) {
        return Ok(template.clone());
    }
    let home = reaper::directory("template")?;
    let password = home.join("password");
    std::fs::write(&password, "postgres\n")?;
    let data = home.join("data");
    let mut initdb = binaries.command("initdb");
    initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password);
    initdb.args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    if let Some(user) = user {
        user.own(&home)?;
        user.own(&password)?;
        user.run(&mut initdb);
    }
    run(initdb.current_dir(&home))?;
    templates.insert(binaries.version, data.clone());
    Ok(data)
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
