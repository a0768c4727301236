//! A child process, with a shell in the relay's place.

use std::time::Duration;

use anyhow::Result;
use harness::relay::Pgoutbox;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn logs_are_searched_and_signals_arrive() -> Result<()> {
    let shell = Pgoutbox::at("/bin/sh").env("GREETING", "good day");
    let script = "trap 'echo draining; exit 0' TERM; echo $GREETING; while :; do sleep 0.05; done";
    let relay = shell.spawn(&["-c", script])?;
    assert_eq!(relay.wait_for_log("good", SOON).await?, "good day");
    assert!(relay.rss_bytes()? > 0 && relay.peak_rss_bytes()? >= relay.rss_bytes()?);
    assert!(relay.cpu()? < SOON);
    relay.drain(SOON).await?;
    assert!(relay.log().contains("draining"));

    let relay = shell.spawn(&["-c", "echo last words"])?;
    relay.wait_for_log("last words", SOON).await?;
    let told = relay.wait_for_log("never said", SOON).await.unwrap_err();
    assert!(told.to_string().contains("ended without"), "{told}");

    let relay = shell.spawn(&["-c", "sleep 1000"])?;
    relay.kill9().await?;
    assert!(!relay.is_running());
    assert!(
        shell
            .succeed(&["-c", "echo a reason >&2; exit 3"])
            .await
            .unwrap_err()
            .to_string()
            .contains("a reason")
    );
    Ok(())
}
