//! The one way this crate synchronises: look again until it is so, or a deadline passes.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Short enough not to show in a measured time.
const CLOSE: Duration = Duration::from_millis(10);
/// Bounds of the pause before the next look. Many tests wait at one time, and each look costs the servers
/// a connection or a request: what takes long is looked at less often.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The pause after so long a wait: a tenth of it.
fn pause(waited: Duration) -> Duration {
    (waited / 10).clamp(PAUSES.0, PAUSES.1)
}

/// Waits until `condition` is true. An `Err` means "not yet" and is told when the deadline passes.
pub async fn wait_until(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, within, async || Ok(condition().await?.then_some(()))).await
}

/// Like [`wait_until`], and looks so often that the time it takes can be measured.
pub async fn wait_closely(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    look(what, within, |_| CLOSE, async || Ok(condition().await?.then_some(()))).await
}

/// Like [`wait_until`], for a condition that yields a value.
pub async fn wait_for<T>(
    what: &str,
    within: Duration,
    condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    look(what, within, pause, condition).await
}

async fn look<T>(
    what: &str,
    within: Duration,
    pause: fn(Duration) -> Duration,
    mut condition: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        let last = match condition().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() >= within {
            let late = format!("after {within:?} still waiting for {what}");
            return Err(match last {
                Some(error) => error.context(late),
                None => anyhow!(late),
            });
        }
        tokio::time::sleep(pause(begun.elapsed())).await;
    }
}

/// Until the attempt succeeds. Unlike the other two it can be used in a spawned task, as the compiler cannot yet tell
/// that an `AsyncFnMut`'s future is `Send`.
pub async fn retry<T, F: Future<Output = Result<T>>>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() >= within => {
                return Err(error.context(format!("after {within:?} still waiting for {what}")));
            }
            Err(_) => tokio::time::sleep(pause(begun.elapsed())).await,
        }
    }
}

/// For places that cannot be async, such as `Drop`.
pub fn wait_blocking(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() >= within {
            return false;
        }
        std::thread::sleep(pause(begun.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn yields_the_value_once_there_is_one() {
        let mut tries = 0;
        let value = wait_for("the third try", Duration::from_secs(5), async || {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn tells_what_it_waited_for_and_why_not() {
        let waited =
            wait_until("rain", Duration::from_millis(30), async || Err(anyhow!("blue sky"))).await;
        let told = format!("{:#}", waited.unwrap_err());
        assert!(told.contains("rain") && told.contains("blue sky"), "{told}");
    }
}
