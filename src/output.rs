//! All that is written to standard output and error: nobody else does.
//!
//! A command's answer goes to standard output, and whether it arrived belongs to its exit code. The
//! log of a relay goes to standard error by way of a bounded queue and a thread of its own: the reader
//! of the log may stop, or its disk be full, and events go on all the same. Lines that do not fit
//! are dropped and counted.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use terminal_size::Width;
use tracing::warn;

/// `EX_IOERR` of sysexits: an answer that could not be written.
pub(crate) const EXIT_UNWRITTEN: u8 = 74;
/// Lines of the log that may wait to be written, at most.
const LINES: usize = 8192;
/// And their bytes.
const BYTES: usize = 8 << 20;
/// How long an end waits for the log to be written.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before a full pipe, or queue, is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// Why standard output could not be written, the first time.
static FAILURE: Mutex<Option<String>> = Mutex::new(None);
/// A line on standard error is to be taken away before anything else is written.
static HAS_PASSING: AtomicBool = AtomicBool::new(false);
/// Back to the beginning of the line, and it is empty.
const EMPTY_LINE: &str = "\r\x1b[K";
static LOG: OnceLock<Queue> = OnceLock::new();
/// Lines of the log that nobody will ever read.
static LOST: AtomicU64 = AtomicU64::new(0);

struct Queue {
    to: SyncSender<Item>,
    bytes: AtomicUsize,
}

enum Item {
    Line(Vec<u8>),
    /// Answered once all before it is written.
    Flush(SyncSender<()>),
}

/// Writes to standard output, at once. What goes wrong is kept for [`failure`]: but that a reader
/// has gone (`| head`) is no fault of ours.
pub(crate) fn out(bytes: &[u8]) {
    take_away();
    let mut stdout = io::stdout();
    let outcome = stdout.write_all(bytes).and_then(|()| stdout.flush());
    keep(outcome);
}

/// Takes the outcome of what somebody else has written to standard output.
pub(crate) fn keep(outcome: io::Result<()>) {
    let Err(error) = outcome else { return };
    if error.kind() != ErrorKind::BrokenPipe {
        let mut failure = FAILURE.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| error.to_string());
    }
}

/// Why standard output could not be written, where that is so.
pub(crate) fn failure() -> Option<String> {
    FAILURE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Writes a line to standard error, behind the log; whether that can be is all the same.
pub(crate) fn err(line: impl std::fmt::Display) {
    take_away();
    put(format!("{line}\n").into_bytes());
    flush();
}

/// Shows a line on a terminal's standard error until something else is written, or [`take_away`] is called.
pub(crate) fn pass(line: &str) {
    let size = terminal_size::terminal_size_of(io::stderr());
    let columns = size.map_or(80, |(Width(columns), _)| usize::from(columns));
    let line: String = line.chars().take(columns.saturating_sub(1)).collect();
    let _ = io::stderr().write_all(format!("{EMPTY_LINE}{line}").as_bytes());
    HAS_PASSING.store(true, Ordering::Relaxed);
}

/// Takes away what [`pass`] has shown.
pub(crate) fn take_away() {
    if HAS_PASSING.swap(false, Ordering::Relaxed) {
        let _ = io::stderr().write_all(EMPTY_LINE.as_bytes());
    }
}

/// Somebody can be asked, and sees what is asked.
pub(crate) fn is_somebody_there() -> bool {
    io::stdin().is_terminal() && is_terminal()
}

/// Asks, and waits for a yes.
pub(crate) fn agrees(question: &str) -> bool {
    out(question.as_bytes());
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Whether somebody sits before standard output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// How wide the terminal is that standard output goes to, where it goes to one.
pub(crate) fn columns() -> Option<usize> {
    let size = terminal_size::terminal_size_of(io::stdout()).filter(|_| is_terminal());
    size.map(|(Width(columns), _)| usize::from(columns)).filter(|columns| *columns > 0)
}

/// Whether somebody sits before the log.
pub(crate) fn is_log_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Begins to write the log on a thread of its own.
///
/// # Errors
/// The system does not give the process another thread.
pub(crate) fn start_log() -> io::Result<()> {
    let (to, from) = sync_channel(LINES);
    thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&from))?;
    // Whoever was first has the log.
    let _ = LOG.set(Queue { to, bytes: AtomicUsize::new(0) });
    Ok(())
}

/// Waits until the log is written, for a while.
pub(crate) fn flush() {
    let Some(queue) = LOG.get() else { return };
    let ends = Instant::now() + PATIENCE;
    let (done, is_done) = sync_channel(1);
    let mut item = Item::Flush(done);
    while let Err(TrySendError::Full(back)) = queue.to.try_send(item) {
        if Instant::now() >= ends {
            return;
        }
        item = back;
        thread::sleep(AGAIN);
    }
    let _ = is_done.recv_timeout(ends.saturating_duration_since(Instant::now()));
}

/// Lines of the log that were dropped.
pub(crate) fn lost_lines() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Lines were dropped before they were written.
pub(crate) fn lose_lines(count: usize) {
    LOST.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Where the log's lines go. Never fails and never waits: who writes the log moves the events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put(line: Vec<u8>) {
    let Some(queue) = LOG.get() else {
        let _ = io::stderr().write_all(&line);
        return;
    };
    let size = line.len();
    let waiting = queue.bytes.fetch_add(size, Ordering::Relaxed);
    if waiting + size > BYTES || queue.to.try_send(Item::Line(line)).is_err() {
        queue.bytes.fetch_sub(size, Ordering::Relaxed);
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// The thread of the log.
fn write_all(from: &Receiver<Item>) {
    let mut said = 0;
    while let Ok(item) = from.recv() {
        let line = match item {
            Item::Line(line) => line,
            Item::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        let is_written = write(&line);
        if let Some(queue) = LOG.get() {
            queue.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        }
        if !is_written {
            LOST.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let lost = lost_lines();
        if lost > said {
            warn!(
                lines = lost - said,
                hint = "see to it that somebody reads standard error, and that its disk has room",
                "lines of the log were lost: they could not be written"
            );
            said = lost;
        }
    }
}

/// Waits as long as it takes, where nobody reads; `false` where the line cannot be written.
fn write(line: &[u8]) -> bool {
    let mut rest = line;
    while !rest.is_empty() {
        match io::stderr().write(rest) {
            Ok(0) => return false,
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else has made it so that it does not wait.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(_) => return false,
        }
    }
    true
}
