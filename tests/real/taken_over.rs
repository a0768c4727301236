//! What an earlier session still has under way, once a later one owns the slot.

use anyhow::{Context as _, Result};
use harness::events::rows;
use harness::scenario::Scenario;

use crate::bare::{arrived, ids};
use crate::place::NUMBERED;
use crate::setting::PATIENCE;

const MEDDLE: &str =
    "CREATE TRIGGER meddle BEFORE INSERT ON pgoutbox.parked FOR EACH ROW EXECUTE FUNCTION meddle()";

fn meddled(trigger: &str) -> Scenario {
    let function = format!(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {trigger} RETURN NEW; END $$"
    );
    Scenario::default().retries("1h").tables(NUMBERED).sql(&function).sql(MEDDLE)
}

/// The process is frozen, or its host cut off, while its batch waits in the server, which goes on with
/// it once it can: by then another relay has delivered the event, or parked it.
#[tokio::test]
async fn a_batch_that_waits_while_another_relay_begins() -> Result<()> {
    const WAITING: &str = "FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'";
    for is_bound in [true, false] {
        let setting = meddled(
            "IF EXISTS (SELECT FROM public.held) THEN
                 SET LOCAL lock_timeout = 0;
                 PERFORM pg_advisory_xact_lock(4711);
             END IF;",
        )
        .setting()
        .await?;
        setting.sql("CREATE TABLE held AS SELECT 1").await?;
        let consumer = setting.bound("good").await?;
        let holder = setting.client().await?;
        holder.batch_execute("SELECT pg_advisory_lock(4711)").await?;
        let relay = setting.run()?;
        setting.insert(rows(1, "late")).await?;
        let waits = format!("SELECT count(*) = 1 {WAITING}");
        setting.until("the batch waits", &waits).await.with_context(|| relay.log())?;
        let backend: i32 = setting.ask(&format!("SELECT pid {WAITING}")).await?;
        relay.sigstop()?;
        let frozen = relay;
        setting.sql("DELETE FROM held").await?;
        setting
            .sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = current_database()")
            .await?;
        if is_bound {
            setting.bind("late").await?;
        }
        let relay = setting.run()?;
        match is_bound {
            true => setting.all_marked().await.with_context(|| relay.log())?,
            false => setting.parking_is(&relay, "1 parked").await?,
        }
        setting.until("the batch still waits", &waits).await?;
        holder.batch_execute("SELECT pg_advisory_unlock(4711)").await?;
        let has_ended =
            format!("SELECT state = 'idle' FROM pg_stat_activity WHERE pid = {backend}");
        setting.until("the batch has ended", &has_ended).await?;
        setting.insert(rows(1, "good")).await?;
        arrived(&consumer, 1 + usize::from(is_bound)).await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        frozen.kill9().await?;
        let want = if is_bound { "" } else { "1 parked" };
        setting.parking_is(&relay, want).await?;
        let came = ids(&arrived(&consumer, 1 + usize::from(is_bound)).await?);
        assert_eq!(came, if is_bound { vec!["1", "2"] } else { vec!["2"] }, "{}", relay.log());
    }
    Ok(())
}

/// The relay is refused, whether it writes a batch at once or in parts: it says so, writes nothing
/// more of it, and begins again.
#[tokio::test]
async fn a_relay_that_lives_on() -> Result<()> {
    // An event that is parked in a lesser form, each try by itself.
    let in_parts = "IF NEW.aggregate_id IS NOT NULL THEN RAISE EXCEPTION 'no key'; END IF;";
    for (trigger, want) in [("", "2 parked"), (in_parts, "NULL parked")] {
        let noted = "NEW.note := (SELECT session FROM pgoutbox.progress WHERE slot = NEW.slot);";
        let (setting, consumer, relay) = meddled(&format!("{trigger} {noted}")).run("good").await?;
        setting.insert(rows(1, "good")).await?;
        setting.all_marked().await?;
        setting
            .sql("UPDATE pgoutbox.progress SET session = '00000000-0000-4000-8000-000000000000'")
            .await?;
        setting
            .sql("INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic) VALUES ('order', 'a', 'late')")
            .await?;
        let said = format!("another relay has taken over slot \"{}\"", setting.database);
        relay.wait_for_log(&said, PATIENCE).await?;
        setting.parking_is(&relay, want).await?;
        let by_the_next = "SELECT note NOT LIKE '00000000-%' FROM pgoutbox.parked";
        assert!(setting.ask::<bool>(by_the_next).await?, "{}", relay.log());
        setting.insert(rows(1, "good")).await?;
        setting
            .until("it goes on", "SELECT relayed_at IS NOT NULL FROM outbox_messages WHERE id = 3")
            .await
            .with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "3"], "{}", relay.log());
        assert_eq!(relay.log().matches(&said).count(), 1, "{}", relay.log());
    }
    Ok(())
}

/// What is due is taken by the session that owns the slot, and by no earlier one that wakes: it would be
/// published behind the back of the other.
#[tokio::test]
async fn what_is_due_is_not_taken_by_an_earlier_session() -> Result<()> {
    const OTHER: &str =
        "UPDATE pgoutbox.progress SET session = '00000000-0000-4000-8000-000000000000'";
    // Behind one of its aggregate, and alone.
    for aggregate in ["'order', 'a'", "NULL, NULL"] {
        let setting = meddled("").setting().await?;
        let consumer = setting.bound("good").await?;
        let relay = setting.run()?;
        let sql = format!(
            "INSERT INTO outbox_messages (aggregate_type, aggregate_id, topic) VALUES ({aggregate}, 'late')"
        );
        setting.sql(&sql).await?;
        setting.parking_is(&relay, "1 parked").await?;
        setting.bind("late").await?;
        setting.sql(OTHER).await?;
        setting.program.succeed(&["parked", "retry", "--all"]).await?;
        let said = format!("another relay has taken over slot \"{}\"", setting.database);
        relay.wait_for_log(&said, PATIENCE).await?;
        setting.parking_is(&relay, "").await?;
        setting.insert(rows(1, "good")).await?;
        setting.all_marked().await.with_context(|| relay.log())?;
        relay.drain(PATIENCE).await?;
        assert_eq!(ids(&arrived(&consumer, 2).await?), ["1", "2"], "{}", relay.log());
    }
    Ok(())
}
