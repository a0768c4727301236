//! `pgoutbox completions`: what a shell needs to complete the command line.

use clap::Command;
use clap_complete::Shell;

/// Prints the completions of a shell. Connects to nothing.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    pgoutbox completions bash > /usr/share/bash-completion/completions/pgoutbox\n  \
    pgoutbox completions zsh  > /usr/share/zsh/vendor-completions/_pgoutbox\n  \
    pgoutbox completions fish > /usr/share/fish/vendor_completions.d/pgoutbox.fish")]
pub(super) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// The script, for the command line as clap knows it.
pub(super) fn run(args: &Args, mut command: Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "pgoutbox", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
