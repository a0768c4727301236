//! Server-sent events: the status, each second and with each change of the state. A listener
//! that reads slowly is sent less; nothing piles up for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::body::{Bytes, Frame};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;

use super::history::History;
use super::snapshot_cache::Looker;
use super::status;

use crate::within::in_time;

/// Listeners at one time.
pub(super) const LISTENERS: usize = 16;
const PERIOD: Duration = Duration::from_secs(1);
/// Changes of the state are not sent more often.
const PAUSE: Duration = Duration::from_millis(200);

struct Listener {
    looker: Arc<Looker>,
    history: Arc<History>,
    changes: watch::Receiver<u64>,
    told_change: Option<SystemTime>,
    is_first: bool,
    _place: OwnedSemaphorePermit,
}

/// What one listener is sent.
pub(super) fn stream(
    looker: Arc<Looker>,
    history: Arc<History>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let changes = looker.changes();
    let listener =
        Listener { looker, history, changes, told_change: None, is_first: true, _place: place };
    unfold(listener, |mut listener| async {
        let text = listener.next().await;
        Some((Ok(Frame::data(Bytes::from(text))), listener))
    })
}

impl Listener {
    async fn next(&mut self) -> String {
        if !std::mem::replace(&mut self.is_first, false) {
            sleep(PAUSE).await;
            let _ = in_time(PERIOD.saturating_sub(PAUSE), self.changes.changed()).await;
        }
        let snapshot = self.looker.look().await;
        let mut status = status::json(&snapshot, self.history.recent());
        let last = snapshot.shown.changes.back().map(|change| change.at);
        if let Some(status) = status.as_object_mut() {
            // They are most of it, and rarely new.
            if last.is_some() && last == self.told_change {
                status.remove("changes");
            }
            status.insert("points_taken".to_owned(), json!(self.history.taken()));
        }
        self.told_change = last;
        format!("data: {status}\n\n")
    }
}
