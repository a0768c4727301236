//! `pgoutbox status --watch`: the same, each second, in place.

use std::fmt::Write as _;
use std::time::Duration;

use terminal_size::{Height, Width};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::page::Page;
use super::{Facts, UnmarkedRows, client, unmarked};
use crate::cli::say;
use crate::config::Config;
use crate::error::{Class, Fault};
use crate::output;

const PERIOD: Duration = Duration::from_secs(1);
/// Rows without a mark are not cheap to count.
const COUNT_PERIOD: Duration = Duration::from_secs(30);
/// A screen besides the one with what the operator did before, and no cursor on it.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
/// What stands in the rest of the line, and of the screen.
const CLEAR_RIGHT: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Prints until Ctrl-C, and says whether all was well at last. A server that goes away is said
/// and tried again.
///
/// # Errors
/// The settings are wrong for this server.
pub(super) async fn run(config: &Config) -> Result<bool, Fault> {
    let mut watch = Watch { client: None, counted: None, is_well: false };
    let mut screen = Screen::open();
    let mut stop = std::pin::pin!(stopped());
    loop {
        tokio::select! {
            biased;
            () = &mut stop => return Ok(watch.is_well),
            outcome = watch.look(config) => match outcome {
                Err(fault) if fault.class == Class::Transient => {
                    watch.client = None;
                    let mut page = Page::default();
                    page.say(format_args!("postgres  {fault}"));
                    screen.show(page);
                }
                outcome => screen.show(outcome?),
            },
        }
        tokio::select! {
            biased;
            () = &mut stop => return Ok(watch.is_well),
            () = sleep(PERIOD) => {}
        }
    }
}

/// Ctrl-C, or SIGTERM: the terminal is to be left as it was found.
async fn stopped() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

struct Watch {
    client: Option<Client>,
    counted: Option<(Instant, Vec<UnmarkedRows>)>,
    is_well: bool,
}

impl Watch {
    async fn look(&mut self, config: &Config) -> Result<Page, Fault> {
        self.is_well = false;
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => client,
            _ => client(config).await?,
        };
        let facts = Facts::look(&client, config).await?;
        let counted = match self.counted.take() {
            Some((at, counted)) if at.elapsed() < COUNT_PERIOD => (at, counted),
            _ => (Instant::now(), unmarked(&client, config).await),
        };
        let page = facts.page(config, &counted.1);
        self.is_well = facts.is_well(&counted.1);
        (self.client, self.counted) = (Some(client), Some(counted));
        Ok(page)
    }
}

/// In place on a terminal, one below the other in a file or where a terminal can do no more.
struct Screen {
    is_terminal: bool,
    last: Option<Page>,
}

impl Screen {
    fn open() -> Self {
        let can_move =
            std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        let is_terminal = output::is_terminal() && can_move;
        if is_terminal {
            write(ENTER);
        }
        Self { is_terminal, last: None }
    }

    fn show(&mut self, page: Page) {
        if self.is_terminal {
            let size = terminal_size::terminal_size();
            let (Width(columns), Height(rows)) = size.unwrap_or((Width(80), Height(24)));
            write(&frame(&page, columns.into(), rows.into()));
        } else {
            say("");
            page.print();
        }
        self.last = Some(page);
    }
}

impl Drop for Screen {
    /// What was seen last stays.
    fn drop(&mut self) {
        if self.is_terminal {
            write(LEAVE);
            self.last.iter().for_each(Page::print);
        }
    }
}

/// In one piece: what is written over is not cleared before, so nothing flickers.
fn frame(page: &Page, columns: usize, rows: usize) -> String {
    let now = jiff::Timestamp::now().strftime("%H:%M:%S UTC");
    let mut frame = format!("{HOME}pgoutbox  {now}, Ctrl-C ends{CLEAR_RIGHT}\r\n{CLEAR_RIGHT}");
    let lines = page.fitted(columns, rows.saturating_sub(2));
    for (at, line) in lines.iter().enumerate() {
        let clear = if at + 1 == lines.len() { CLEAR_BELOW } else { CLEAR_RIGHT };
        // Before it: after a line as wide as the screen it would clear its last letter.
        let _ = write!(frame, "\r\n{clear}{line}");
    }
    frame
}

fn write(text: &str) {
    output::out(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_clears_what_it_does_not_write_over() {
        let mut page = Page::default();
        page.say("slot      shop\nlag       0 B");
        let frame = frame(&page, 80, 24);
        assert!(frame.starts_with(HOME), "{frame:?}");
        assert!(frame.ends_with("\r\n\x1b[Kslot      shop\r\n\x1b[Jlag       0 B"), "{frame:?}");
        assert!(!frame.contains("\x1b[2J") && !frame.contains("\x1b[3J"), "{frame:?}");
        assert_eq!(frame.matches('\n').count(), 3, "the last line does not scroll");
    }
}
