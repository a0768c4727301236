//! An outbox that is spread over several relays by `postgres.shards`: each event is of one of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::relay::Relay;
use harness::wait_for;

use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

/// Whether the server can filter the rows of a publication.
async fn can_filter(setting: &Setting) -> Result<bool> {
    setting.ask("SELECT current_setting('server_version_num')::int >= 150000").await
}

/// The relay of one share.
fn share(setting: &Setting, number: u16) -> Setting {
    setting.clone().set("postgres.shard", &number.to_string())
}

/// Which of so many an aggregate is of, by the server.
fn number_of(aggregate: &str, of: u16) -> String {
    format!("((hashtextextended({aggregate}, 0) & 9223372036854775807) % {of})")
}

/// An event of each of eight aggregates, and of another that messages are of too, one after the other.
async fn write(setting: &Setting, numbers: std::ops::Range<i64>) -> Result<()> {
    for n in numbers {
        setting
            .sql(&format!(
                "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
                 SELECT 't', 'order', one::text, jsonb_build_object('aggregate', one::text, 'n', {n}) FROM generate_series(1, 8) AS one;
                 SELECT pgoutbox.emit('orders', jsonb_build_object('aggregate', 'm' || one, 'n', {n}), topic => 't',
                                      aggregate_type => 'order', aggregate_id => 'm' || one) FROM generate_series(1, 4) AS one"
            ))
            .await?;
    }
    Ok(())
}

const AGGREGATES: usize = 12;

/// Each event came once, in the order of its aggregate.
async fn all_once(consumer: &Consumer, last: i64, relays: &[&Relay]) -> Result<()> {
    let logs = || relays.iter().map(|relay| relay.log()).collect::<Vec<_>>().join("\n\n");
    let wanted = usize::try_from(last)? * AGGREGATES;
    consumer.wait_distinct(wanted, PATIENCE).await.with_context(logs)?;
    let mut of_each: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    consumer.deliveries(|all| {
        for delivery in all {
            let event = delivery.json()?;
            let aggregate = event["aggregate"].as_str().context("no aggregate")?;
            let number = event["n"].as_i64().context("no number")?;
            of_each.entry(aggregate.to_owned()).or_default().push(number);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    for (aggregate, came) in of_each {
        ensure!(came == (1..=last).collect::<Vec<_>>(), "{came:?} of {aggregate}\n{}", logs());
    }
    Ok(())
}

#[tokio::test]
async fn each_relay_has_its_share_of_rows_and_messages() -> Result<()> {
    let setting = Setting::bare().await?;
    let setting =
        setting.set("tables.0.name", "outbox_messages").set("messages.0.prefix", "orders");
    let setting = setting.set("postgres.on_slot_loss", "catch_up").set("postgres.shards", "3");
    if !can_filter(&setting).await? {
        let refused = setting.program.output(&["init"]).await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("cannot filter the rows"), "{said}");
        share(&setting, 0).check().await?.has("shards-unsupported", "error");
        return Ok(());
    }
    let dry = setting.program.succeed(&["init", "--dry-run"]).await?;
    ensure!(dry.matches("CREATE PUBLICATION").count() == 3, "{dry}");
    let said = setting.init().await?;
    for number in 0..3 {
        let name = format!("{}_{number}of3", setting.database);
        ensure!(said.contains(&format!("made    slot {name}")), "{said}");
        let found = share(&setting, number).check().await?;
        found.has_not("shards-filter");
        let own = format!("shard {number} of 3");
        ensure!(found.of("shards", "good", &own).is_some(), "{found}");
    }
    ensure!(setting.init().await?.matches("found   publication").count() == 3);
    let consumer = setting.bound("#").await?;
    let shares: Vec<_> = (0..3).map(|number| share(&setting, number)).collect();
    let relays: Vec<Relay> = shares.iter().map(Setting::run).collect::<Result<_>>()?;
    for relay in &relays {
        relay.wait_for_log("running", PATIENCE).await?;
    }
    write(&setting, 1..20).await?;
    let [first, second, third] = relays.as_slice() else { anyhow::bail!("three") };
    all_once(&consumer, 19, &[first, second, third]).await?;
    setting.all_marked().await?;
    // Without a share, each is asked about in turn.
    let verified = setting.program.succeed(&["verify", "--json", "--exact"]).await?;
    let ledgers = serde_json::Deserializer::from_str(&verified).into_iter::<serde_json::Value>();
    let committed =
        ledgers.map(|ledger| Ok(ledger?["tables"][0]["committed"]["rows"].as_i64().unwrap_or(0)));
    let committed: Vec<i64> = committed.collect::<Result<_>>()?;
    ensure!(committed.len() == 3 && committed.iter().sum::<i64>() == 19 * 8, "{committed:?}");
    parked_are_found_whosever_they_are(&setting).await?;
    // One loses its slot, and lists what is of its own share.
    third.drain(PATIENCE).await?;
    let rows = "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
        SELECT 't', 'order', one::text, jsonb_build_object('aggregate', one::text, 'n', 20) FROM generate_series(1, 8) AS one";
    setting.sql(rows).await?;
    let own: i64 = setting
        .ask(&format!(
            "SELECT count(*) FROM generate_series(1, 8) AS one WHERE {} = 2",
            number_of("one::text", 3)
        ))
        .await?;
    let slot = format!("{}_2of3", setting.database);
    setting.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await?;
    let third = shares[2].run()?;
    third.wait_for_log("slot recreated", PATIENCE).await?;
    let rows = format!("rows={own}");
    let listed = third.wait_for_log("listed the rows that wait", PATIENCE).await?;
    ensure!(third.log().contains(&rows), "{rows} of its share: {listed}");
    consumer.wait_distinct(19 * AGGREGATES + 8, PATIENCE).await?;
    setting.all_marked().await?;
    ensure!(consumer.total() == consumer.distinct(), "something came twice");
    for relay in [first, second, &third] {
        relay.drain(PATIENCE).await?;
    }
    misfits(&setting, &shares[0]).await?;
    let said = setting.program.succeed(&["uninstall", "--yes"]).await?;
    ensure!(said.matches("dropped slot").count() == 3, "{said}");
    let left: i64 = setting.ask("SELECT count(*) FROM pg_publication").await?;
    ensure!(left == 0, "{left} publications are left");
    Ok(())
}

/// Nobody has to know of which shard an event is to look at it, or to act on it.
async fn parked_are_found_whosever_they_are(setting: &Setting) -> Result<()> {
    setting
        .sql(
            "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
             SELECT repeat('x', 256), 'order', one::text, '{}' FROM generate_series(1, 8) AS one",
        )
        .await?;
    let put_aside = "SELECT count(*) = 8 AND count(DISTINCT slot) > 1 FROM pgoutbox.parked";
    setting.until("events of several shards to be parked", put_aside).await?;
    let json = async |args: &[&str]| -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&setting.program.succeed(args).await?)?)
    };
    let listed = json(&["parked", "list", "--json"]).await?;
    let seqs: Vec<i64> = listed["events"]
        .as_array()
        .context("events")?
        .iter()
        .filter_map(|event| event["seq"].as_i64())
        .collect();
    ensure!(seqs.len() == 8 && seqs.is_sorted(), "{listed}");
    let two = json(&["parked", "list", "--json", "--limit", "2"]).await?;
    ensure!(two["events"].as_array().is_some_and(|it| it.len() == 2) && two["has_more"] == true);
    for event in listed["events"].as_array().into_iter().flatten() {
        let id = event["event_id"].as_str().context("an id")?;
        setting.program.succeed(&["parked", "show", "--id", id]).await?;
        let traced = json(&["event", id, "--json"]).await?;
        let events = traced["events"].as_array().context("events")?;
        ensure!(events.len() == 1 && events[0]["state"] == event["state"], "{traced}");
    }
    // One parked event and what was delivered before.
    let traced = json(&["event", "--aggregate", "order/3", "--limit", "50", "--json"]).await?;
    let events = traced["events"].as_array().context("events")?;
    let delivered = events.iter().filter(|event| event["state"] == "delivered").count();
    ensure!(events.len() == 20 && delivered == 19, "{traced}");
    let retried = setting.program.succeed(&["parked", "retry", "--aggregate", "order/3"]).await?;
    ensure!(retried.contains("1 event tried again now"), "{retried}");
    let one = ["parked", "discard", "--aggregate", "order/3", "--yes"];
    let discarded = setting.program.succeed(&one).await?;
    ensure!(discarded.contains("1 event discarded"), "{discarded}");
    let discarded = setting.program.succeed(&["parked", "discard", "--all", "--yes"]).await?;
    ensure!(discarded.contains("7 events discarded"), "{discarded}");
    let replayed = ["replay", "--discarded", "--dry-run", "--json"];
    let replayed = setting.program.output(&replayed).await?;
    let told = String::from_utf8_lossy(&replayed.stdout).into_owned();
    ensure!(told.matches("more than 255").count() == 8, "{told}");
    let rows = ["replay", "--aggregate", "order/3", "--only", "relayed", "--dry-run"];
    let rows = setting.program.succeed(&rows).await?;
    ensure!(rows.contains("19"), "{rows}");
    setting.sql("DELETE FROM outbox_messages WHERE relayed_at IS NULL").await
}

/// Who is configured for another layout is refused, and a publication that is not that of the share is found.
async fn misfits(setting: &Setting, first: &Setting) -> Result<()> {
    for (shards, number) in [("1", None), ("2", Some("0"))] {
        let other = setting.clone().set("postgres.shards", shards);
        let other = match number {
            Some(number) => other.set("postgres.shard", number),
            None => other,
        };
        let refused = other.program.output(&["init"]).await?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && said.contains("is spread over 3 relays"), "{said}");
        let relay = other.run()?;
        relay.wait_for_log("is spread over 3 relays", PATIENCE).await?;
        relay.kill9().await?;
        other.check().await?.has("shards-layout", "error");
    }
    let publication = "pgoutbox_0of3";
    let set = async |filter: &str| {
        let sql = format!("ALTER PUBLICATION \"{publication}\" SET TABLE outbox_messages {filter}");
        setting.sql(&sql).await
    };
    let own =
        "SELECT 'WHERE ' || rowfilter FROM pg_publication_tables WHERE pubname = 'pgoutbox_0of3'";
    let own: String = setting.ask(own).await?;
    let other = format!("WHERE ({} = 0)", number_of("aggregate_id", 4));
    for filter in ["", other.as_str()] {
        set(filter).await?;
        first.check().await?.has("shards-filter", "error");
    }
    // What the filter lets pass and another share has would be passed over here, and comes nowhere else.
    let relay = first.run()?;
    relay.wait_for_log("otherwise than its share asks for", PATIENCE).await?;
    set(&own).await?;
    relay.reaches("running", PATIENCE).await?;
    set(&other).await?;
    let refused = |line: &str| line.contains("otherwise than its share asks for");
    wait_for("it to stop once more", PATIENCE, async || {
        let times = relay.log().lines().filter(|line| refused(line)).count();
        Ok((times > 1).then_some(()))
    })
    .await
    .with_context(|| relay.log())?;
    relay.kill9().await?;
    // The same where the aggregate's id is another column by now.
    set(&own).await?;
    first.check().await?.has_not("shards-filter");
    let mapped = first.clone().set("tables.0.columns.aggregate_id", "aggregate_type");
    mapped.check().await?.has("shards-filter", "error");
    Ok(())
}

/// Ids of aggregates of any type that a filter can say come to the relay that the server takes for theirs.
#[tokio::test]
async fn the_share_follows_from_an_id_of_any_type() -> Result<()> {
    const KINDS: [(&str, &str); 7] = [
        ("text", "'ünï ' || n"),
        ("varchar(40)", "'order-' || n"),
        ("char(12)", "'c' || n"),
        ("uuid", "gen_random_uuid()"),
        ("bigint", "-n * 7000000000"),
        ("smallint", "n"),
        ("numeric", "n / 8.0"),
    ];
    let setting = Setting::bare().await?;
    if !can_filter(&setting).await? {
        return Ok(());
    }
    let mut spread = setting.clone().set("postgres.shards", "2").set("tables.7.name", "of_none");
    let columns = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text DEFAULT 't', payload jsonb DEFAULT '{}', relayed_at timestamptz";
    let mut all = format!("CREATE TABLE of_none ({columns});");
    let mut rows = "INSERT INTO of_none (topic) SELECT 't' FROM generate_series(1, 20);".to_owned();
    for (number, (kind, value)) in KINDS.into_iter().enumerate() {
        all.push_str(&format!(r#"CREATE TABLE of_{number} ({columns}, "Aggregate ""id" {kind});"#));
        rows.push_str(&format!(
            r#"INSERT INTO of_{number} ("Aggregate ""id") SELECT {value} FROM generate_series(1, 20) AS n;
               INSERT INTO of_{number} ("Aggregate ""id") VALUES (NULL);"#
        ));
        spread = spread.set(&format!("tables.{number}.name"), &format!("of_{number}"));
        spread = spread.set(&format!("tables.{number}.columns.aggregate_id"), "Aggregate \"id");
    }
    setting.sql(&all).await?;
    setting.sql(&rows).await?;
    spread.init().await?;
    let listed: i64 = setting.ask("SELECT count(*) FROM pgoutbox.catch_up_rows").await?;
    ensure!(listed == 7 * 21 + 20, "{listed} are listed, each once");
    let consumer = setting.bound("#").await?;
    let relays = [share(&spread, 0).run()?, share(&spread, 1).run()?];
    for relay in &relays {
        relay.wait_for_log("running", PATIENCE).await?;
    }
    setting.sql(&rows).await?;
    let logs = || format!("{}\n\n{}", relays[0].log(), relays[1].log());
    consumer.wait_distinct(2 * (7 * 21 + 20), PATIENCE).await.with_context(logs)?;
    ensure!(consumer.total() == consumer.distinct(), "something came twice");
    for relay in &relays {
        relay.drain(PATIENCE).await?;
        // Nothing comes that is of another share: filter and relay find the same.
        ensure!(relay.log().contains("left_out=0"), "{}", relay.log());
    }
    let other = Setting::bare().await?;
    other
        .sql(&format!(
            "CREATE DOMAIN key AS text; CREATE TABLE outbox_messages ({columns}, aggregate_id key)"
        ))
        .await?;
    let refused = other.clone().set("postgres.shards", "2").program.output(&["init"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("cannot be spread by column"), "{said}");
    let other = share(&other.set("postgres.shards", "2"), 0);
    other.check().await?.has("shards-column", "error");
    Ok(())
}

/// Writes an event of each of eight aggregates in a transaction, one after the other, until it is told to stop; then
/// says how many.
async fn load(setting: Setting, is_over: Arc<AtomicBool>) -> Result<i64> {
    let client = setting.client().await?;
    let mut n = 1;
    while !is_over.load(Ordering::Relaxed) {
        n += 1;
        client
            .batch_execute(&format!(
                "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
                 SELECT 't', 'order', one::text, jsonb_build_object('aggregate', one::text, 'n', {n}) FROM generate_series(1, 8) AS one;
                 SELECT pg_sleep(0.02)"
            ))
            .await?;
    }
    Ok(n)
}

/// The first delivery of each event is in the order of its aggregate; returns how many came again.
fn in_order(consumer: &Consumer, last: i64) -> Result<usize> {
    let mut of_each: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut repeats = 0;
    consumer.deliveries(|all| {
        for delivery in all {
            let event = delivery.json()?;
            let aggregate = event["aggregate"].as_str().context("no aggregate")?;
            let number = event["n"].as_i64().context("no number")?;
            let came = of_each.entry(aggregate.to_owned()).or_default();
            if came.contains(&number) {
                repeats += 1;
            } else {
                came.push(number);
            }
        }
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(of_each.len() == 8, "{:?}", of_each.keys());
    for (aggregate, came) in of_each {
        ensure!(came == (1..=last).collect::<Vec<_>>(), "of {aggregate}: {came:?}");
    }
    Ok(repeats)
}

/// Two relays that take any share, then three, then one, under load: none is lost, none is inverted, and what is parked
/// goes with its aggregate.
#[tokio::test]
async fn it_is_spread_over_others_under_load() -> Result<()> {
    let (_postgres, setting) = Setting::own_postgres().await?;
    if !can_filter(&setting).await? {
        return Ok(());
    }
    let setting = setting.set("session.backoff_max", "1s");
    let of = |shards: &str| setting.clone().set("postgres.shards", shards);
    setting.program.succeed(&["uninstall", "--yes"]).await?;
    of("2").init().await?;
    let consumer = setting.bound("t").await?;
    // The first of each aggregate is taken by no queue yet: what follows waits behind it.
    let first = "INSERT INTO outbox_messages (topic, aggregate_type, aggregate_id, payload)
        SELECT CASE WHEN one > 6 THEN 'late' ELSE 't' END, 'order', one::text, jsonb_build_object('aggregate', one::text, 'n', 1)
          FROM generate_series(1, 8) AS one";
    setting.sql(first).await?;
    let two = [of("2").run()?, of("2").run()?, of("2").run()?];
    let is_waiting = async || {
        Ok(two
            .iter()
            .filter(|relay| relay.log().contains("standby: each shard has its relay"))
            .count()
            == 1)
    };
    harness::wait_until("one of three waits", PATIENCE, is_waiting).await?;
    setting
        .until("two are parked", "SELECT count(*) = 2 FROM pgoutbox.parked WHERE state = 'parked'")
        .await?;
    // One that had a shard goes, and the third takes it.
    let is_owner = |relay: &&Relay| !relay.log().contains("standby: each shard");
    two.iter().find(is_owner).context("one of them runs")?.kill9().await?;
    let active = "SELECT count(*) = 2 FROM pg_replication_slots WHERE active";
    setting.until("both slots are read", active).await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let loading = tokio::spawn(load(setting.clone(), Arc::clone(&is_over)));
    let three = [of("3").run()?, of("3").run()?, of("3").run()?];
    three[0].wait_for_log("is spread over 2 relays", PATIENCE).await?;
    let plan = of("2").program.succeed(&["reshard", "--to", "3", "--dry-run"]).await?;
    ensure!(
        plan.contains("from 2 relays to 3 relays") && plan.contains("CREATE PUBLICATION"),
        "{plan}"
    );
    let done = of("2").program.succeed(&["reshard", "--to", "3"]).await?;
    ensure!(
        done.contains("spread  over 3 relays") && done.contains("parked events went"),
        "{done}"
    );
    let all_three = "SELECT count(*) = 3 AND bool_and(active AND slot_name LIKE '%of3') FROM pg_replication_slots";
    setting.until("three slots are read, and no other is left", all_three).await?;
    for relay in two.iter().filter(|relay| relay.is_running()) {
        relay.wait_for_log("spread over 3 relays", PATIENCE).await?;
    }
    // Each parked event is with the relay of its aggregate.
    let astray: i64 = setting
        .ask(&format!(
            "SELECT count(*) FROM pgoutbox.parked WHERE slot <> '{}_' || {} || 'of3'",
            setting.database,
            number_of("aggregate_id", 3)
        ))
        .await?;
    ensure!(astray == 0, "{astray} parked events are with another relay");
    let one = of("1").run()?;
    let done = of("3").program.succeed(&["reshard", "--to", "1"]).await?;
    ensure!(done.contains("spread  over one relay"), "{done}");
    one.wait_for_log("running", PATIENCE).await?;
    is_over.store(true, Ordering::Relaxed);
    let last = loading.await??;
    setting.bind("late").await?;
    of("1").program.succeed(&["parked", "retry", "--all"]).await?;
    let wanted = usize::try_from(last)? * 8;
    consumer.wait_distinct(wanted, PATIENCE).await.with_context(|| one.log())?;
    let repeats = in_order(&consumer, last)?;
    // What was settled of a transaction that was cut in its middle.
    ensure!(repeats <= 5 * 8, "{repeats} of {wanted} came again");
    setting.all_marked().await?;
    let again = of("1").program.succeed(&["reshard", "--to", "1"]).await?;
    ensure!(again.contains("over one relay already"), "{again}");
    one.drain(PATIENCE).await
}
