//! Connections that nobody uses any more take leave of their servers before the process ends.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::within::in_time;

/// How long [`say_goodbye`] waits. What is still in use by then is cut off by the end of the process.
const GOODBYE: Duration = Duration::from_millis(200);

/// Connections that are driven, and who waits for their end.
static DRIVEN: AtomicUsize = AtomicUsize::new(0);

static GONE: Notify = Notify::const_new();

/// Counted while it lives.
pub(super) struct OpenConnection;

impl OpenConnection {
    pub(super) fn begin() -> Self {
        DRIVEN.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        DRIVEN.fetch_sub(1, Ordering::Relaxed);
        GONE.notify_waiters();
    }
}

/// Waits until the connections that nobody uses any more have taken leave of their servers. For the
/// end of a process: the server logs a connection that is cut off within a transaction, as that of
/// a [`Turn`](crate::postgres::turn::Turn) would be.
pub(crate) async fn say_goodbye() {
    let all_gone = async {
        loop {
            // Asked for before the look: what ends in between is heard.
            let mut gone = pin!(GONE.notified());
            gone.as_mut().enable();
            if DRIVEN.load(Ordering::Relaxed) == 0 {
                return;
            }
            gone.await;
        }
    };
    let _ = in_time(GOODBYE, all_gone).await;
}
