//! Postgres refuses to run as root: started by root it runs as somebody else.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `None` if we are an ordinary user, who runs everything as himself.
    pub(crate) fn for_postgres() -> Result<Option<User>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let user = ["postgres", "nobody"].iter().find_map(|name| find(&passwd, name));
        Ok(Some(
            user.context("Postgres does not run as root, and there is no user postgres or nobody")?,
        ))
    }

    pub(crate) fn own(self, path: &Path) -> Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| path.display().to_string())
    }

    /// Makes the command run as this user.
    pub(crate) fn run(self, command: &mut Command) {
        // With a uid the standard library drops root's supplementary groups too.
        command.uid(self.uid).gid(self.gid);
    }
}

fn find(passwd: &str, name: &str) -> Option<User> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        let user = find(passwd, "nobody").unwrap();
        assert_eq!((user.uid, user.gid), (65_534, 65_533));
        assert!(find(passwd, "postgres").is_none());
    }
}
