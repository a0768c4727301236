//! Messages made by configuration: what a consumer gets of them, by the stream, out of the
//! parking, by a catch-up and by a replay.

use anyhow::{Context, Result, ensure};
use harness::consumer::Delivery;
use harness::wait_until;
use lapin::types::AMQPValue;
use serde_json::json;

use crate::bare::{arrived, ids, text};
use crate::check::Checks as _;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

const TABLE: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), event_type text, payload jsonb, \
    headers jsonb, tenant text, occurred_at timestamptz DEFAULT '2026-11-30 12:00:00.5+00', \
    relayed_at timestamptz";

async fn mapped() -> Result<Setting> {
    let setting = [
        ("name", "outbox"),
        ("routing_key", "{event_type}"),
        ("events__paid__routing_key", "money.{tenant}"),
        ("properties__type", "v1.{event_type}"),
        ("properties__correlation_id", "{headers.trace.id}"),
        ("properties__expiration", "{headers.ttl}"),
        ("properties__priority", "3"),
        ("headers__tenant", "{tenant}"),
        ("headers__delay", "{headers.delay:integer}"),
        ("body__kind", "{event_type}"),
        ("body__meta__tenant", "{tenant}"),
        ("body__data", "{payload}"),
    ]
    .iter()
    .fold(Setting::bare().await?, |setting, (key, value)| {
        setting.set(&format!("tables__0__{key}"), value)
    });
    setting.sql(&format!("CREATE TABLE outbox ({TABLE})")).await?;
    setting.init().await?;
    Ok(setting)
}

fn judge(delivery: &Delivery, number: i64) -> Result<()> {
    let properties = &delivery.properties;
    let kind = properties.kind().as_ref().context("no type")?.as_str();
    ensure!(kind == "v1.paid", "{kind}");
    ensure!(delivery.routing_key == "money.acme", "{}", delivery.routing_key);
    let correlation = properties.correlation_id().as_ref().context("no correlation id")?;
    ensure!(correlation.as_str() == format!("t-{number}"), "{correlation}");
    ensure!(*properties.priority() == Some(3), "{:?}", properties.priority());
    ensure!(*properties.timestamp() == Some(1_796_040_000), "{:?}", properties.timestamp());
    ensure!(text(delivery, "tenant") == Some("acme"), "{:?}", delivery.header("tenant"));
    let delay = delivery.header("delay");
    ensure!(delay == Some(&AMQPValue::LongLongInt(number)), "{delay:?}");
    let expected = json!({"kind": "paid", "data": {"n": number}, "meta": {"tenant": "acme"}});
    ensure!(delivery.json()? == expected, "{}", String::from_utf8_lossy(&delivery.body));
    Ok(())
}

fn insert(number: i64, ttl: &str) -> String {
    format!(
        r#"INSERT INTO outbox (event_type, tenant, payload, headers) VALUES ('paid', 'acme', '{{"n": {number}}}',
           '{{"trace": {{"id": "t-{number}"}}, "delay": {number}, "ttl": {ttl}, "tenant": "not this"}}')"#
    )
}

/// One relay brings one event by the stream and one out of the parking, the next one an event
/// by a catch-up; a command replays one.
#[tokio::test]
async fn a_message_is_the_same_whichever_way_its_event_comes() -> Result<()> {
    let setting = mapped().await?.set("parking.backoff_min", "50ms");
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting.sql(&insert(1, "60000")).await?;
    judge(&arrived(&consumer, 1).await?[0], 1)?;

    // The broker closes the channel over a lifetime that it cannot read: it never sees this one.
    setting.sql(&insert(2, "\"a day\"")).await?;
    setting.until("the event is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    let error: String = setting.ask("SELECT last_error FROM pgoutbox.parked").await?;
    ensure!(error.contains("its expiration cannot be read"), "{error}");
    ensure!(!error.contains("a day"), "{error}");
    setting.sql(&insert(3, "null")).await?;
    judge(&arrived(&consumer, 2).await?[1], 3)?;
    relay.drain(PATIENCE).await?;

    setting.sql(&insert(4, "60000")).await?;
    setting.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()").await?;
    let relay = setting.run()?;
    judge(&arrived(&consumer, 3).await?[2], 4)?;
    relay.drain(PATIENCE).await?;

    let id: String = setting.ask("SELECT id::text FROM outbox WHERE payload->>'n' = '1'").await?;
    setting.replay(0, &["--id", &id]).await?;
    let again = arrived(&consumer, 4).await?;
    judge(&again[3], 1)?;
    ensure!(again[3].header("pgoutbox-replayed").is_some());
    Ok(())
}

/// Two tables, of which one does not ask for returns; no queue takes either event.
#[tokio::test]
async fn what_no_queue_takes_is_returned_only_where_it_is_mandatory() -> Result<()> {
    let mut setting = Setting::bare().await?.set("tables__1__mandatory", "false");
    for (number, name) in ["returned", "lost"].iter().enumerate() {
        setting = setting
            .set(&format!("tables__{number}__name"), name)
            .set(&format!("tables__{number}__routing_key"), "nowhere");
        setting.sql(&format!("CREATE TABLE {name} ({TABLE})")).await?;
    }
    setting.init().await?;
    let relay = setting.run()?;
    let said = "no queue takes counts as delivered";
    relay.wait_for_log(said, PATIENCE).await?;
    setting
        .sql("INSERT INTO returned (payload) VALUES ('1'); INSERT INTO lost (payload) VALUES ('2')")
        .await?;
    setting.until("the second is marked", "SELECT relayed_at IS NOT NULL FROM lost").await?;
    setting.until("the first is parked", "SELECT count(*) = 1 FROM pgoutbox.parked").await?;
    let outbox: String = setting.ask("SELECT outbox::text FROM pgoutbox.parked").await?;
    ensure!(outbox == "returned", "{outbox}");
    let unmarked: bool = setting.ask("SELECT relayed_at IS NULL FROM returned").await?;
    ensure!(unmarked);
    let found = setting.check().await?;
    let finding = found.has("mandatory", "warning")["what"].to_string();
    ensure!(finding.contains("of public.lost that"), "{finding}");
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn a_mapping_that_the_table_does_not_fit_is_named_at_the_start() -> Result<()> {
    let setting = Setting::bare().await?.set("tables__0__name", "outbox");
    setting.sql(&format!("CREATE TABLE outbox ({TABLE})")).await?;
    let setting = setting.set("tables__0__headers__tenant", "{tenent}");
    let output = setting.program.output(&["init"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{said}");
    for part in
        ["headers.tenant of public.outbox names \"tenent\"", "its columns are id, event_type"]
    {
        ensure!(said.contains(part), "{said}");
    }
    Ok(())
}

/// The row's key and the id that consumers know repeats by are two columns: what comes back is known all the
/// same, also where two rows have one `message_id`.
#[tokio::test]
async fn a_message_id_of_its_own_column() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "box")
        .set("tables.0.columns.message_id", "event_id")
        .set("parking.backoff_min", "1h")
        .set("parking.backoff_max", "2h");
    setting
        .sql(
            "CREATE TABLE box (id bigint PRIMARY KEY, event_id text, topic text, payload jsonb DEFAULT '1',
                 aggregate_type text DEFAULT 'a', aggregate_id text, relayed_at timestamptz)",
        )
        .await?;
    setting.init().await?;
    let here = setting.bound("here").await?;
    let relay = setting.run()?;
    setting
        .sql(
            "INSERT INTO box (id, event_id, topic, aggregate_id) VALUES
                 (1, 'one', 'here', '1'), (2, 'same', 'nowhere', '2'), (3, 'same', 'here', '3'), (4, NULL, 'here', '4')",
        )
        .await?;
    let mut came = ids(&arrived(&here, 3).await?);
    came.sort();
    assert_eq!(came, ["4", "one", "same"]);
    setting
        .until(
            "the one that came back to be parked",
            "SELECT array_agg(event_id) = '{2}' FROM pgoutbox.parked",
        )
        .await?;
    setting
        .until(
            "the others' marks",
            "SELECT array_agg(id ORDER BY id) = '{1,3,4}' FROM box WHERE relayed_at IS NOT NULL",
        )
        .await?;
    // Both read of one queue.
    let late = setting.bound("nowhere").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    let all = || [&here, &late].map(|it| ids(&it.deliveries(<[Delivery]>::to_vec))).concat();
    let wait = wait_until("the parked one", PATIENCE, async || Ok(all().len() == 4)).await;
    wait.with_context(|| relay.log())?;
    assert_eq!(all().iter().filter(|id| *id == "same").count(), 2);
    setting.until("its mark", "SELECT count(relayed_at) = 4 FROM box").await?;
    relay.drain(PATIENCE).await?;
    // By the row's key; what no queue takes is told by it too.
    setting.program.succeed(&["replay", "--id", "1"]).await?;
    wait_until("the replayed one", PATIENCE, async || Ok(all().len() == 5)).await?;
    assert_eq!(all().iter().filter(|id| *id == "one").count(), 2);
    setting.sql("UPDATE box SET topic = 'void' WHERE id = 3").await?;
    let refused = setting.program.output(&["replay", "--id", "3"]).await?;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    Ok(())
}
