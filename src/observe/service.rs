//! What systemd hears by `sd_notify`: that the relay is ready, its state, that it moves, and
//! that it stops. Nothing is said where `NOTIFY_SOCKET` is not set.
//!
//! It is sent by a thread of its own: a service manager that does not read its socket would have the
//! whole relay wait.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::board::{Board, RelayState};
use crate::error::Fault;

/// Signs of life in the time after which systemd takes the process for stuck: one that comes late
/// must not end it.
const BEATS: u32 = 4;
/// Of the time between two of them, how much the loop has to answer.
const ANSWER: u32 = 2;
/// How often the state is reported where systemd asks for no watchdog.
const NEVER: Duration = Duration::from_secs(3_600);
/// How much waits for a service manager that does not read; the rest is not said.
const WAITING: usize = 64;
/// How long the end of the process waits for the last words to be sent.
const FAREWELL: Duration = Duration::from_millis(200);

/// Tells of each change of the state, and of the loop as long as it answers. Never ends where
/// somebody listens.
pub(crate) async fn run(board: Board) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let period = sd_notify::watchdog_enabled().map(|timeout| timeout / BEATS);
    let mut beat = interval(period.unwrap_or(NEVER));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = board.changes();
    let mut is_ready = tell(&board, false);
    loop {
        tokio::select! {
            biased;
            changed = changes.changed() => match changed {
                Ok(()) => is_ready = tell(&board, is_ready),
                Err(_) => return,
            },
            _ = beat.tick() => {
                if let Some(period) = period && is_moving(&board, period / ANSWER).await {
                    notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// It stops, because it was asked to.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// It reads its configuration again (`Type=notify-reload`).
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => debug!("no monotonic clock: {error}"),
    }
}

/// It has read it.
pub(crate) fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// It ends, and why.
pub(crate) fn ended(fault: &Fault) {
    notify(&[NotifyState::Status(&line(&fault.what))]);
}

/// The state in words; and once that it is ready. A standby is: its service has started.
fn tell(board: &Board, is_ready: bool) -> bool {
    let shown = board.shown();
    let status = line(&format!("{}: {}", shown.state, shown.why));
    let starts = !is_ready && is_up(shown.state);
    match starts {
        true => notify(&[NotifyState::Ready, NotifyState::Status(&status)]),
        false => notify(&[NotifyState::Status(&status)]),
    }
    is_ready || starts
}

fn is_up(state: RelayState) -> bool {
    matches!(
        state,
        RelayState::Standby | RelayState::CatchingUp | RelayState::Running | RelayState::Paused
    )
}

/// The loop of a session answers. Outside of a session everything has a timeout of its own, and
/// that this task runs shows that nothing else blocks.
async fn is_moving(board: &Board, patience: Duration) -> bool {
    let asked = Instant::now();
    let shown = board.look(patience).await;
    !shown.state.is_in_session() || shown.viewed_at.is_some_and(|at| at >= asked)
}

/// A line break would end the text and begin another field.
fn line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// What the thread is handed.
enum Errand {
    Say(String),
    /// All before it is sent.
    Tell(SyncSender<()>),
}

/// The thread that sends; `None` where nobody wants to hear.
fn herald() -> Option<&'static SyncSender<Errand>> {
    static HERALD: OnceLock<Option<SyncSender<Errand>>> = OnceLock::new();
    let start = || {
        let manager = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let (errands, waiting) = sync_channel(WAITING);
        let sending = move || send_all(&manager, &waiting);
        thread::Builder::new().name("sd-notify".to_owned()).spawn(sending).ok()?;
        Some(errands)
    };
    HERALD.get_or_init(start).as_ref()
}

fn send_all(manager: &OsString, waiting: &Receiver<Errand>) {
    for errand in waiting {
        match errand {
            Errand::Say(text) => {
                // A service manager that does not listen is no reason to stop.
                if let Err(error) = send(manager, &text) {
                    debug!("systemd was not notified: {error}");
                }
            }
            Errand::Tell(done) => drop(done.try_send(())),
        }
    }
}

fn send(manager: &OsString, text: &str) -> io::Result<()> {
    let address = match manager.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

fn notify(state: &[NotifyState]) {
    let Some(herald) = herald() else { return };
    let text = state.iter().map(|state| format!("{state}\n")).collect();
    if herald.try_send(Errand::Say(text)).is_err() {
        debug!("systemd was not notified: it does not read what was sent before");
    }
}

/// Waits until all is said, for the end of the process.
pub(crate) fn flush() {
    let Some(herald) = herald() else { return };
    let (done, said) = sync_channel(1);
    if herald.try_send(Errand::Tell(done)).is_ok() {
        let _ = said.recv_timeout(FAREWELL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_up_and_a_relay_without_servers_is_not() {
        let up: Vec<_> = RelayState::ALL.into_iter().filter(|state| is_up(*state)).collect();
        assert_eq!(
            up,
            [RelayState::Standby, RelayState::CatchingUp, RelayState::Running, RelayState::Paused]
        );
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(line("no\nREADY=1\r"), "no READY=1 ");
    }

    #[tokio::test]
    async fn a_loop_that_does_not_answer_shows_no_sign_of_life() {
        let patience = Duration::from_millis(20);
        let board = Board::new();
        assert!(is_moving(&board, patience).await, "it connects");
        board.enter(RelayState::Running, "");
        assert!(!is_moving(&board, patience).await, "nobody answers");
    }
}
