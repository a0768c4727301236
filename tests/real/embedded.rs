//! The relay inside another program: this one.

use anyhow::{Context, Result};
use harness::wait_until;
use pgoutbox::outbox::{Event, enqueue};
use pgoutbox::{Builder, Relay};
use tokio::sync::oneshot;

use crate::bare::{arrived, ids, uuid};
use crate::setting::{PATIENCE, Setting};

fn builder(setting: &Setting) -> Builder {
    Relay::builder()
        .set("postgres.url", &setting.database_url)
        .set("postgres.slot", &setting.database)
        .set("amqp.url", &setting.amqp_url)
}

#[tokio::test]
async fn relays_what_its_host_writes_until_it_is_told_to_stop() -> Result<()> {
    let setting = Setting::shared().await?;
    let consumer = setting.bound("#").await?;
    let relay = builder(&setting).build()?;
    let status = relay.status();
    assert_eq!(status.now().await.state, "connecting");
    let (stop, stopped) = oneshot::channel::<()>();
    let relaying = tokio::spawn(relay.run(async move {
        let _ = stopped.await;
    }));
    let mut client = setting.client().await?;
    let rolled_back = client.transaction().await?;
    enqueue(&rolled_back, &Event::new("never", "{}")).await?;
    rolled_back.rollback().await?;
    let transaction = client.transaction().await?;
    let first = uuid(1);
    let event = Event::new("orders.paid", r#"{"order": 7}"#)
        .aggregate("order", "7")
        .event_type("OrderPaid")
        .headers(r#"{"tenant": "acme"}"#)
        .id(&first);
    assert_eq!(enqueue(&transaction, &event).await?, first);
    let second = enqueue(&transaction, &Event::new("orders.seen", "[1]")).await?;
    transaction.commit().await?;
    let came = arrived(&consumer, 2).await?;
    assert_eq!(ids(&came), [first, second]);
    assert_eq!(came[0].properties.kind().as_ref().map(|kind| kind.as_str()), Some("OrderPaid"));
    wait_until("the figures", PATIENCE, async || {
        let now = status.now().await;
        Ok(now.state == "running" && now.delivered == 2 && now.waiting == 0 && now.fault.is_none())
    })
    .await?;
    let refused = enqueue(&client, &Event::new(" ", "{}")).await.err().context("no topic")?;
    assert!(refused.as_db_error().is_some_and(|error| error.hint().is_some()), "{refused}");
    stop.send(()).ok().context("it listens")?;
    relaying.await??;
    assert_eq!(status.now().await.state, "stopped");
    setting.all_marked().await
}

/// Its host may go away in any way: the slot is free for the next one.
#[tokio::test]
async fn a_relay_that_nobody_waits_for_drains_by_itself() -> Result<()> {
    let setting = Setting::shared().await?;
    let relay = builder(&setting).build()?;
    let status = relay.status();
    let relaying = tokio::spawn(relay.run(std::future::pending()));
    wait_until("it runs", PATIENCE, async || Ok(status.now().await.state == "running")).await?;
    relaying.abort();
    wait_until("it stops", PATIENCE, async || Ok(status.now().await.state == "stopped")).await?;
    setting
        .until(
            "the slot is free",
            "SELECT NOT active FROM pg_replication_slots WHERE slot_name = current_database()",
        )
        .await
}

#[tokio::test]
async fn wrong_settings_are_told_before_anything_connects() -> Result<()> {
    let fault =
        Relay::builder().set("window.message", 5).build().err().context("no such setting")?;
    let said = fault.to_string();
    for wanted in ["window.messages", "amqp.url", "postgres.url"] {
        assert!(said.contains(wanted), "{said}");
    }
    Ok(())
}

/// The example of the manual, as it stands.
#[tokio::test]
async fn the_example_delivers_an_event() -> Result<()> {
    let setting = Setting::shared().await?;
    let _consumer = setting.bound("#").await?;
    let test = std::env::current_exe()?;
    let built = test.parent().and_then(|deps| deps.parent()).context("a directory")?;
    let output = std::process::Command::new(built.join("examples/embedded"))
        .env("DATABASE_URL", &setting.database_url)
        .env("AMQP_URL", &setting.amqp_url)
        .env("PGOUTBOX_POSTGRES__SLOT", &setting.database)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("is delivered\nstopped"), "{said}");
    Ok(())
}
