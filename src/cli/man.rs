//! `pgoutbox man`: the manual, from the command line as clap knows it.

use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;

use crate::error::Fault;

/// Prints the man page, or writes a page for each command. Connects to nothing.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:\n  \
    pgoutbox man | man -l -\n  \
    pgoutbox man --out /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Write pgoutbox.1, pgoutbox-run.1 and so on into this directory, which is made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// The page; nothing where pages were written.
pub(super) fn run(args: &Args, command: Command) -> Result<String, Fault> {
    let Some(directory) = &args.out else {
        let mut page = Vec::new();
        let rendered = Man::new(command).render(&mut page);
        rendered.map_err(|error| Fault::transient(format!("no page: {error}")))?;
        return Ok(String::from_utf8_lossy(&page).into_owned());
    };
    // A fresh machine has no /usr/local/share/man/man1.
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory));
    written.map_err(|error| {
        let path = directory.display();
        Fault::definite(format!("{path}: {error}"), "name a directory that may be written to")
    })?;
    Ok(String::new())
}
