//! Waits that have an end. Whatever asks another program may never be answered.

use std::time::Duration;

use tokio::time::timeout;

/// An outcome within a bound; one that is late is the error that `late` makes of the bound.
///
/// # Errors
/// Whatever the future fails with, or `late` once the bound is over; the future is dropped then.
pub(crate) async fn within<T, E>(
    bound: Duration,
    asked: impl Future<Output = Result<T, E>>,
    late: impl FnOnce(Duration) -> E,
) -> Result<T, E> {
    timeout(bound, asked).await.unwrap_or_else(|_| Err(late(bound)))
}

/// What came within a bound; `None` where nothing did.
pub(crate) async fn in_time<T>(bound: Duration, asked: impl Future<Output = T>) -> Option<T> {
    timeout(bound, asked).await.ok()
}
