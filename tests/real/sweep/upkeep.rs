//! What runs beside the relay: reconciliation reads, pruning deletes.

use anyhow::{Context, Result, ensure};
use harness::wait_until;

use super::loops::{ARMED, arm, trigger};
use super::{CLASSES, SWITCH, Swept, is_told, switch_off};
use crate::setting::{PATIENCE, Setting};

/// Of a class each, and those that are told apart by name.
fn few() -> Vec<&'static str> {
    CLASSES.into_iter().chain(["40001", "42501", "42P01", "55P03", "57014"]).collect()
}

async fn setting(sql: &str) -> Result<Setting> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "events")
        .set("tables.1.name", "others")
        .set("postgres.wal_sender_timeout", "1s")
        .set("reconcile.interval", "1s")
        .set("reconcile.age", "1s")
        .set("audit.hold", "1s")
        .set("audit.give_up", "1s");
    for table in ["events", "others"] {
        let sql = format!(
            "CREATE TABLE {table} (id text PRIMARY KEY, topic text DEFAULT 'good', payload jsonb DEFAULT '1',
                 relayed_at timestamptz)"
        );
        setting.sql(&sql).await?;
    }
    setting.init().await?;
    let mut all = SWITCH.to_owned() + sql;
    for code in few() {
        all += &format!(
            "INSERT INTO events (id, relayed_at) VALUES ('good-{code}', '2020-01-01'), ('bad-{code}', '2020-01-01');
             INSERT INTO pgoutbox.parked (slot, outbox, event_id, commit_lsn, index, commit_time, state, is_holding, columns, cells, changed_at)
             SELECT current_database(), 'events'::regclass, id, '0/1', (SELECT count(*) FROM pgoutbox.parked) + n, now(),
                    'discarded', false, '[]', '{{}}', '2020-01-01'
               FROM (VALUES ('bad-{code}', 1), ('bad-{code}-gone', 2), ('good-{code}-gone', 3)) AS one (id, n);"
        );
    }
    setting.sql(&all).await?;
    setting.sql("INSERT INTO others (id, relayed_at) VALUES ('good', '2020-01-01')").await?;
    Ok(setting)
}

/// The records of all bad rows are asked whether they are of their rows.
const RECORDS: &str = "
    ALTER FUNCTION pgoutbox.is_record_of RENAME TO is_own_record_of;
    CREATE FUNCTION pgoutbox.is_record_of(record pgoutbox.parked, row_xmin xid, row_occurred_at text, names text[], cells text[])
        RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_bad(record.event_id, 'bad');
        RETURN pgoutbox.is_own_record_of(record, row_xmin, row_occurred_at, names, cells);
    END $$;";

#[tokio::test]
async fn reconciliation() -> Result<()> {
    let setting = setting(RECORDS).await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    setting.sql("UPDATE events SET relayed_at = NULL; UPDATE others SET relayed_at = NULL").await?;
    let found = format!("table=\"public.events\" rows={} ", few().len());
    relay.wait_for_log(&found, PATIENCE).await?;
    relay.wait_for_log("table=\"public.others\" rows=1 ", PATIENCE).await?;
    let mut swept = Swept::default();
    for code in few() {
        let what = ["reconciliation: public.events: row", &format!("SQLSTATE {code}")];
        is_told(&relay, &what)?;
        swept.add("reconciliation: read", "of one row: it is passed over, and said", code);
    }
    switch_off(&setting).await?;
    let before = relay.log().len();
    // Its records are read again, and say that those rows are parked.
    wait_until("a round after it", PATIENCE, async || {
        let log = relay.log();
        let new = log.get(before..).unwrap_or_default();
        Ok(new.matches(found.trim()).count() >= 2)
    })
    .await
    .with_context(|| relay.log())?;
    ensure!(relay.sessions() == 1 && relay.is_running(), "{}", relay.log());
    relay.drain(PATIENCE).await?;
    swept.print();
    Ok(())
}

const DELETES: &str = "
    CREATE FUNCTION swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_bad(CASE TG_ARGV[0] WHEN 'row' THEN to_jsonb(OLD) ->> 'id' ELSE to_jsonb(OLD) ->> 'event_id' END, 'bad');
        RETURN OLD;
    END $$;
    CREATE TRIGGER swept BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION swept('row');
    CREATE TRIGGER swept BEFORE DELETE ON pgoutbox.parked FOR EACH ROW EXECUTE FUNCTION swept('record');";

#[tokio::test]
async fn pruning() -> Result<()> {
    let setting = setting(DELETES).await?.set("prune.keep", "1h").set("prune.interval", "1s");
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let gone = "SELECT NOT EXISTS (SELECT FROM events WHERE id LIKE 'good%') AND NOT EXISTS (SELECT FROM others)
                   AND NOT EXISTS (SELECT FROM pgoutbox.parked WHERE event_id LIKE 'good%')";
    setting.until("the good rows to go", gone).await.with_context(|| relay.log())?;
    let mut swept = Swept::default();
    for (what, statement) in
        [("rows of public.events", "prune: rows"), ("records of parked events", "prune: records")]
    {
        for code in few() {
            let parts = ["pruning", what, &format!("SQLSTATE {code}")];
            wait_until(code, PATIENCE, async || Ok(is_told(&relay, &parts).is_ok()))
                .await
                .with_context(|| relay.log())?;
            swept.add(statement, "of one row: it stays, told by row", code);
        }
    }
    let left: i64 = setting.ask("SELECT count(*) FROM events").await?;
    ensure!(left == i64::try_from(few().len())?, "{left} rows stay");
    ensure!(relay.sessions() == 1 && relay.is_running(), "{}", relay.log());
    switch_off(&setting).await?;
    // The relay leaves them alone for an hour; a command does not.
    setting.program.succeed(&["prune"]).await?;
    let all = "SELECT NOT EXISTS (SELECT FROM events) AND NOT EXISTS (SELECT FROM pgoutbox.parked)";
    setting.until("all rows to go", all).await?;
    relay.drain(PATIENCE).await?;
    swept.print();
    Ok(())
}

/// The guard goes on looking, and what it found is recorded once that can be done.
#[tokio::test]
async fn guard() -> Result<()> {
    // More WAL is on disk than that, always.
    let setting = Setting::bare()
        .await?
        .set("guard.disk_limit", "1MiB")
        .set("guard.interval", "100ms")
        .set("log.format", "text");
    setting.init().await?;
    let sql = ARMED.to_owned() + &trigger("guard", "INSERT OR UPDATE", "pgoutbox.guard");
    setting.sql(&sql).await?;
    arm(&setting, "guard", "P0001").await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    let mut swept = Swept::default();
    for code in few() {
        arm(&setting, "guard", code).await?;
        let parts = ["the guard's verdict is not recorded yet", &format!("SQLSTATE {code}")];
        wait_until(code, PATIENCE, async || Ok(is_told(&relay, &parts).is_ok()))
            .await
            .with_context(|| relay.log())?;
        swept.add("guard: record", "it goes on looking, and says so", code);
    }
    setting.sql("INSERT INTO outbox_messages (topic, payload) VALUES ('good', '1')").await?;
    super::came(&consumer, 1, &relay).await?;
    ensure!(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.guard").await? == 0, "it is armed");
    setting.sql("DELETE FROM armed").await?;
    setting
        .until("the verdict", "SELECT count(*) = 1 FROM pgoutbox.guard WHERE level = 'critical'")
        .await?;
    ensure!(relay.sessions() == 1 && relay.is_running(), "{}", relay.log());
    relay.drain(PATIENCE).await?;
    swept.print();
    Ok(())
}
