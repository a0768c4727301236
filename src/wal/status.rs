//! What is reported to the server while it streams: how far everything is safe, and that we live.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pgwire_replication::Lsn;
use pgwire_replication::protocol::encode_standby_status_update;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::postgres::now_micros;

/// Least pause between two reports that are of progress only.
const PAUSE: Duration = Duration::from_millis(500);

/// What the task that writes to the server is to send.
#[derive(Debug, Clone, Default)]
pub(super) struct StatusUpdates {
    /// The server asked for a word.
    pub(super) is_asked: Arc<Notify>,
    /// The stream is to end.
    pub(super) is_over: Arc<Notify>,
}

/// Tells the server what is acknowledged, until the stream is to end or the connection has; in
/// the first case the writer comes back, with the end of the stream announced. At least every
/// `ping` the server is told something and asked to answer: it ends a client that is silent for
/// `wal_sender_timeout`, and its answer shows that it lives itself.
pub(super) async fn report<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut acknowledged: watch::Receiver<u64>,
    told: StatusUpdates,
    ping: Duration,
) -> Option<W> {
    let mut message = BytesMut::new();
    let (mut is_ping, mut is_over) = (false, false);
    loop {
        write_status(&mut message, *acknowledged.borrow_and_update(), is_ping);
        if is_over {
            frontend::copy_done(&mut message);
        }
        send(&mut writer, &mut message).await.ok()?;
        if is_over {
            return Some(writer);
        }
        let sent_at = Instant::now();
        is_ping = false;
        tokio::select! {
            biased;
            () = told.is_over.notified() => is_over = true,
            () = told.is_asked.notified() => {}
            () = progress(&mut acknowledged, sent_at) => {}
            () = sleep_until(sent_at + ping) => is_ping = true,
        }
    }
}

/// Waits until there is something new to report, and it is time to.
async fn progress(acknowledged: &mut watch::Receiver<u64>, sent_at: Instant) {
    if acknowledged.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep_until(sent_at + PAUSE).await;
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &mut BytesMut,
) -> std::io::Result<()> {
    writer.write_all(message).await?;
    message.clear();
    writer.flush().await
}

fn write_status(message: &mut BytesMut, lsn: u64, is_ping: bool) {
    let status = encode_standby_status_update(Lsn(lsn), now_micros(), is_ping);
    if let Ok(data) = frontend::CopyData::new(status.as_slice()) {
        data.write(message);
    }
}
