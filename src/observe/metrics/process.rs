//! The process as the operating system counts it.

use std::fs;
use std::time::Duration;

use crate::output;

/// A clock tick, as `/proc` counts them: fixed at 100 a second for all of Linux' programs.
const TICK: Duration = Duration::from_millis(10);

/// What `/proc` says; nothing where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// CPU time, of the user and of the kernel.
    pub cpu: Option<Duration>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<usize>,
    /// Lines of its log that could not be written.
    pub lost_log_lines: u64,
}

impl Process {
    /// This process, now.
    pub(crate) fn read() -> Self {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Self {
            cpu: file("stat").and_then(|text| cpu(&text)),
            resident_bytes: file("status").and_then(|text| resident(&text)),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
            lost_log_lines: output::lost_lines(),
        }
    }
}

/// The name in brackets may hold anything, brackets too.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    ticks.sum::<Result<u32, _>>().ok().map(|ticks| TICK * ticks)
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_proc_says() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 2 0 8 9 10";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu("7 (a"), None);
        assert_eq!(resident("Name:\ta\nVmRSS:\t  1024 kB\n"), Some(1 << 20));
        assert_eq!(resident("Name:\ta\n"), None);
    }
}
