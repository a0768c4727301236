//! Filter values: a consumer that asks for a part of a stream is sent that part.

use anyhow::{Context, Result, ensure};
use harness::events::events;
use harness::relay::Pgoutbox;

use super::STREAM;
use super::clients::script;
use super::consumers::python;
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting, uuid};

/// The numbers of the events that a consumer gets, where it asks for those of a value.
async fn filtered(
    setting: &Setting,
    port: u16,
    (value, and_unfiltered): (&str, bool),
    wanted: usize,
) -> Result<Vec<String>> {
    let python = tokio::task::spawn_blocking(python).await??;
    let client = Pgoutbox::at(python)
        .env("AMQP_URL", &setting.amqp_url)
        .env("STREAM_PORT", port.to_string())
        .env("STREAM", STREAM)
        .env("FILTER", value)
        .env("UNFILTERED", and_unfiltered.to_string())
        .env("WANTED", wanted.to_string());
    let told = client.output(&[&script("read_filtered.py").to_string_lossy()]).await?;
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    ensure!(told.status.success(), "{out}{err}");
    serde_json::from_str(&out).with_context(|| format!("{out}{err}"))
}

/// Before RabbitMQ 3.13 there are none: the events are there all the same, and it is said.
#[tokio::test]
async fn a_consumer_is_sent_what_it_asks_for() -> Result<()> {
    let (rabbitmq, setting) = Setting::streaming(STREAM).await?;
    let setting = setting.set("tables.0.filter_value", "{aggregate_type}");
    let version = rabbitmq.version();
    let is_old = ["3.10.", "3.11.", "3.12."].iter().any(|old| version.starts_with(old));
    let relay = setting.run()?;
    // Each is in chunks of its own: they are confirmed before the next are written. The broker filters by the chunk.
    for (first, kind) in [(1, "'order'"), (21, "'bill'"), (41, "NULL"), (61, "'bill'")] {
        let rows = events(first..=first + 19, "good").column("aggregate_type", kind);
        setting.insert(rows).await?;
        setting.all_marked().await.with_context(|| relay.log())?;
    }
    relay.drain(PATIENCE).await?;
    let is_told = relay.log().contains("reads no filter values");
    assert_eq!(is_told, is_old, "{}", relay.log());
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    if is_old {
        checked.has("broker-stream-filter", "warning");
        return Ok(());
    }
    checked.has_not("broker-stream-filter");
    let ids = |numbers: &[std::ops::RangeInclusive<u32>]| {
        numbers.iter().cloned().flatten().map(uuid).collect::<Vec<_>>()
    };
    let port = rabbitmq.stream_port();
    let bills = filtered(&setting, port, ("bill", false), 40).await?;
    assert_eq!(bills, ids(&[21..=40, 61..=80]));
    let with_rest = filtered(&setting, port, ("bill", true), 60).await?;
    assert_eq!(with_rest, ids(&[21..=80]));
    Ok(())
}
