//! A server within the test process, on a thread of its own: a test that keeps its own thread busy holds it up
//! by nothing.

use std::future::Future;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// Said by a server once, when it listens or cannot.
pub(crate) type Ready = oneshot::Sender<std::io::Result<()>>;

/// Runs a server until what is returned is dropped; returns once it listens.
pub(crate) async fn keep<F>(
    name: &str,
    server: impl FnOnce(Ready) -> F + Send + 'static,
) -> Result<oneshot::Sender<()>>
where
    F: Future<Output = ()>,
{
    let (stop, stopped) = oneshot::channel();
    let (ready, started) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            tokio::select! {
                _ = stopped => {}
                () = server(ready) => {}
            }
        });
    })?;
    started.await.with_context(|| format!("the thread of {name} died"))??;
    Ok(stop)
}
