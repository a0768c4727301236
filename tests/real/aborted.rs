//! A statement that fails inside a transaction leaves nothing aborted on the connection that marks, parking
//! and progress share: what comes next is written.

use anyhow::{Context, Result};

use crate::bare::arrived;
use crate::setting::{PATIENCE, Setting};

/// What fails, in which transaction, and how often.
const CASES: [(&str, &str); 4] = [
    ("a mark, with the batch", "BEFORE UPDATE ON outbox_messages"),
    ("the progress, with the batch", "BEFORE INSERT OR UPDATE ON pgoutbox.progress"),
    ("a new record, with the batch", "BEFORE INSERT ON pgoutbox.parked"),
    ("the claim of a record, alone", "BEFORE UPDATE ON pgoutbox.parked"),
];
const FAULTS: i64 = 3;

#[tokio::test]
async fn what_comes_after_a_failed_transaction_is_written() -> Result<()> {
    for (what, when) in CASES {
        let setting = Setting::bare()
            .await?
            .set("parking.backoff_min", "100ms")
            .set("parking.backoff_max", "200ms")
            .set("parking.poll_interval", "1s")
            .set("session.backoff_max", "1s");
        let table = "CREATE TABLE outbox_messages (id text PRIMARY KEY, topic text, payload text, relayed_at timestamptz)";
        setting.sql(table).await?;
        setting.init().await?;
        let consumer = setting.bound("good").await?;
        let relay = setting.run()?;
        relay.reaches("running", PATIENCE).await?;
        // A sequence counts what is rolled back, too.
        let faults = format!(
            "CREATE SEQUENCE faults;
             CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 IF nextval('public.faults') <= {FAULTS} THEN RAISE 'no' USING ERRCODE = '22012'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER fail {when} FOR EACH ROW EXECUTE FUNCTION fail()"
        );
        setting.sql(&faults).await?;
        setting
            .sql("INSERT INTO outbox_messages SELECT n, CASE WHEN n % 2 = 0 THEN 'good' ELSE 'nobody' END, 'x' FROM generate_series(1, 20) AS n")
            .await?;
        let told = || format!("{what}: {}", relay.log());
        let met = format!("SELECT last_value > {FAULTS} FROM faults");
        setting.until("the faults", &met).await.with_context(told)?;
        setting
            .sql("INSERT INTO outbox_messages SELECT n, 'good', 'x' FROM generate_series(101, 110) AS n")
            .await?;
        arrived(&consumer, 20).await.with_context(told)?;
        let marked =
            "SELECT bool_and(relayed_at IS NOT NULL) FROM outbox_messages WHERE topic = 'good'";
        setting.until("marks", marked).await.with_context(told)?;
        let parked = "SELECT count(*) = 10 FROM pgoutbox.parked WHERE attempts > 1";
        setting.until("tries of the others", parked).await.with_context(told)?;
        setting.is_acknowledged(&relay).await.with_context(told)?;
        let aborted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE '%aborted%'";
        assert_eq!(setting.ask::<i64>(aborted).await?, 0, "{what}");
        assert!(!relay.log().contains("25P02"), "{}", told());
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
