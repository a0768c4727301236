//! Where RabbitMQ's own scripts are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

#[derive(Clone, Debug)]
pub(super) struct Binaries {
    /// The directory of the scripts themselves: Debian's `/usr/sbin/rabbitmq-server` is a wrapper that insists on the
    /// user `rabbitmq`.
    sbin: PathBuf,
    /// Erlang's `bin`, where it is not the one of `PATH`.
    pub erlang: Option<PathBuf>,
}

impl Binaries {
    /// `PGOUTBOX_TEST_RABBITMQ` (the root of an unpacked tree with its own Erlang), else `PATH`'s, else Debian's.
    pub(super) fn find() -> Result<Binaries> {
        if let Some(root) = std::env::var_os("PGOUTBOX_TEST_RABBITMQ") {
            let root = PathBuf::from(root).canonicalize().context("PGOUTBOX_TEST_RABBITMQ")?;
            let sbin =
                packaged(&root).with_context(|| format!("no RabbitMQ in {}", root.display()))?;
            let erlang = Some(root.join("usr/lib/erlang/bin")).filter(|bin| bin.is_dir());
            return Ok(Binaries { sbin, erlang });
        }
        let sbin = in_path().or_else(|| packaged(Path::new("/")));
        let sbin =
            sbin.context("no RabbitMQ found: run tests/setup.sh, or install rabbitmq-server")?;
        Ok(Binaries { sbin, erlang: None })
    }

    pub(super) fn script(&self, name: &str) -> PathBuf {
        self.sbin.join(name)
    }

    /// Such as `3.10.8`.
    pub(super) fn version(&self) -> String {
        let home = self.sbin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        home.and_then(|name| name.strip_prefix("rabbitmq_server-")).unwrap_or("unknown").to_owned()
    }
}

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let scripts = std::env::split_paths(&path)
        .filter_map(|bin| bin.join("rabbitmq-server").canonicalize().ok());
    scripts.filter_map(|script| Some(script.parent()?.to_owned())).find(|sbin| is_genuine(sbin))
}

fn packaged(root: &Path) -> Option<PathBuf> {
    let servers = std::fs::read_dir(root.join("usr/lib/rabbitmq/lib")).ok()?.flatten();
    servers.map(|server| server.path().join("sbin")).filter(|sbin| is_genuine(sbin)).max()
}

fn is_genuine(sbin: &Path) -> bool {
    ["rabbitmq-server", "rabbitmqctl", "rabbitmq-env", "../plugins"]
        .iter()
        .all(|name| sbin.join(name).exists())
}
