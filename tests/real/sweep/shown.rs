//! Rows that show how often their events were tried, and that they are delivered after all.

use anyhow::{Context, Result, ensure};
use harness::relay::Relay;
use harness::wait_until;

use super::{SWITCH, Swept, came, codes, is_told, switch_off};
use crate::setting::{PATIENCE, Setting};

/// The columns, and the statement of each; the last is where a failed event is delivered after all.
const KINDS: [(&str, &str); 4] = [
    ("attempt", "park: follow attempt"),
    ("last_error", "park: follow last_error"),
    ("failed_at", "park: follow failed_at"),
    ("cleared", "park: clear failed_at"),
];

const TRIGGER: &str = "
    CREATE FUNCTION swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_bad(OLD.id,
            CASE WHEN NEW.attempt IS DISTINCT FROM OLD.attempt THEN 'attempt'
                 WHEN NEW.last_error IS DISTINCT FROM OLD.last_error THEN 'last_error'
                 WHEN NEW.failed_at IS NOT NULL AND OLD.failed_at IS NULL THEN 'failed_at'
                 WHEN NEW.failed_at IS NULL AND OLD.failed_at IS NOT NULL THEN 'cleared'
                 ELSE 'other' END);
        RETURN NEW;
    END $$;
    CREATE TRIGGER swept BEFORE UPDATE ON events FOR EACH ROW EXECUTE FUNCTION swept();";

/// What a row shows that shows all.
const SHOWS: &str = "attempt = 1 AND last_error IS NOT NULL AND failed_at IS NOT NULL";

async fn told(
    swept: &mut Swept,
    relay: &Relay,
    codes: &[String],
    kinds: &[(&'static str, &'static str)],
) -> Result<()> {
    for (kind, statement) in kinds {
        let what = match *kind {
            "cleared" => "does not show in failed_at that it was delivered".to_owned(),
            _ => format!("does not show its tries in {kind}:"),
        };
        for code in codes {
            let says = [what.as_str(), &format!("SQLSTATE {code})")];
            wait_until(code, PATIENCE, async || Ok(is_told(relay, &says).is_ok()))
                .await
                .with_context(|| format!("{kind} {code}: {}", relay.log()))?;
            swept.add(statement, "of one row: it does not show it, told by event", code);
        }
    }
    Ok(())
}

#[tokio::test]
async fn rows_show_the_tries_of_their_events() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "events")
        .set("parking.max_attempts", "1")
        .set("parking.poll_interval", "1s")
        .set("parking.limit", "100000");
    setting
        .sql(
            "CREATE TABLE events (id text PRIMARY KEY, topic text DEFAULT 'nobody', payload jsonb DEFAULT '1',
                 attempt int, last_error text, failed_at timestamptz, relayed_at timestamptz)",
        )
        .await?;
    setting.init().await?;
    setting.sql(&(SWITCH.to_owned() + TRIGGER)).await?;
    let consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    let codes = codes();
    let client = setting.client().await?;
    for code in &codes {
        let bad = KINDS.map(|(kind, _)| format!("('{kind}-{code}'), ('good-{kind}-{code}')"));
        let sql = format!("INSERT INTO events (id) VALUES {}", bad.join(", "));
        client.batch_execute(&sql).await?;
    }
    let mut swept = Swept::default();
    let good =
        format!("SELECT bool_and({SHOWS}) FROM events WHERE id LIKE 'good%' OR id LIKE 'cleared%'");
    setting.until("the others to show it", &good).await.with_context(|| relay.log())?;
    told(&mut swept, &relay, &codes, &KINDS[..3]).await?;
    let raised: i64 = setting.ask("SELECT last_value FROM raised").await?;
    println!("sweep: shown: {raised} errors over {} rows", codes.len() * KINDS.len() * 2);
    // Delivered after all, while some refuse to say so.
    setting.bind("nobody").await?;
    setting.program.succeed(&["parked", "retry", "--all"]).await?;
    let all = codes.len() * KINDS.len() * 2;
    came(&consumer, all, &relay).await?;
    let cleared = "SELECT bool_and(failed_at IS NULL) FROM events WHERE id NOT LIKE 'cleared%'";
    setting.until("the others to say it", cleared).await.with_context(|| relay.log())?;
    told(&mut swept, &relay, &codes, &KINDS[3..]).await?;
    switch_off(&setting).await?;
    setting.until("all marks", "SELECT bool_and(relayed_at IS NOT NULL) FROM events").await?;
    setting.is_acknowledged(&relay).await?;
    ensure!(relay.sessions() == 1 && relay.is_running(), "{}", relay.log());
    ensure!(consumer.total() == all, "{} came", consumer.total());
    relay.drain(PATIENCE).await?;
    swept.print();
    Ok(())
}
