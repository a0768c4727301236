//! What a process uses, as `/proc` tells.

use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time so far, in user and kernel mode, of all threads that there ever were, to a clock tick (10 ms).
pub fn cpu(pid: u32) -> Result<Duration> {
    ticks(pid, 11)
}

/// CPU time of the children that have ended and were waited for.
pub fn cpu_of_ended_children(pid: u32) -> Result<Duration> {
    ticks(pid, 13)
}

/// CPU time so far of the threads that there are, to the nanosecond. A process whose threads do not come and go.
pub fn cpu_exact(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let told = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanoseconds = told.split_whitespace().next().context("no time in schedstat")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
}

/// Resident memory now, in bytes.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most resident memory it ever had, in bytes.
pub fn peak_rss_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

/// The most memory that it ever reserved, used or not, in bytes.
pub fn peak_reserved_bytes(pid: u32) -> Result<u64> {
    memory(pid, "VmPeak:")
}

/// The sum of two neighbouring fields of `stat`, counted from behind the name, which may hold spaces.
fn ticks(pid: u32, first: usize) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(first).take(2);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / per_second))
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kibibytes =
        line.and_then(|line| line.split_whitespace().next()).context("no such field")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}
