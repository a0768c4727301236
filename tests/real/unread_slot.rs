//! A slot of ours that nobody reads: `postgres.slot` has another name now, or its relay is gone.

use anyhow::Result;
use harness::events::event;

use crate::bare::arrived;
use crate::check::{Checks as _, hint};
use crate::commands::Commands as _;
use crate::setting::{PATIENCE, Setting};

/// It is named wherever one looks; no slot is made beside it where it read the same, and what was discarded under it
/// stays so.
#[tokio::test]
async fn a_slot_of_before_is_named() -> Result<()> {
    let old = Setting::shared().await?.set("parking.backoff_min", "1h");
    let old = old.set("parking.backoff_max", "1h").set("guard.interval", "100ms");
    let relay = old.run()?;
    old.insert(event(1, "late").of("a")).await?;
    old.insert(event(2, "late").of("b")).await?;
    old.parking_is(&relay, "1 parked, 2 parked").await?;
    old.exits(0, &["parked", "discard", "--yes", "--aggregate", "order/b"]).await?;
    relay.drain(PATIENCE).await?;
    old.check().await?.has_not("slot-unread-other");

    let name = old.database.clone();
    let new = old.clone().set("postgres.slot", &format!("{name}_new"));
    let from = format!("pgoutbox init --from-slot {name}");
    let checked = new.check().await?;
    assert!(hint(checked.has("slot-missing", "error")).starts_with(&from), "{checked}");
    let refused = new.exits(1, &["init"]).await?;
    assert!(refused.contains(&from), "{refused}");
    let dry = new.exits(0, &["init", "--dry-run"]).await?;
    assert!(dry.contains("-- not yet: a relay read slot") && dry.contains(&from), "{dry}");
    assert!(
        old.ask::<bool>(
            "SELECT count(*) = 1 FROM pg_replication_slots WHERE database = current_database()"
        )
        .await?
    );
    // As the hint says, where nobody needs it.
    new.carry_out(checked.has("slot-unread-other", "warning")).await?;
    new.init().await?;
    new.check().await?.has_not("slot-unread-other");
    assert_eq!(
        old.ask::<i64>("SELECT count(*) FROM pgoutbox.catch_up_rows").await?,
        1,
        "the discarded one is not listed"
    );

    // Of other events: it is only named.
    let beside = old.clone().set("postgres.publication", "beside");
    let beside = beside.set("postgres.slot", &format!("{name}_beside"));
    let told = beside.init().await?;
    assert!(told.contains(&format!("warning slot \"{name}_new\" is of a relay")), "{told}");
    let relay = new.run()?;
    let said = relay.wait_for_log("nobody reads it", PATIENCE).await?;
    assert!(said.contains(&format!("{name}_beside")), "{said}");
    let status = new.status().await?;
    assert_eq!(status["unread_slots"][0]["slot"], format!("{name}_beside"), "{status}");
    let consumer = new.bound("late").await?;
    new.exits(0, &["parked", "retry", "--all"]).await?;
    arrived(&consumer, 1).await?;
    new.until("its mark", "SELECT count(*) = 1 FROM outbox_messages WHERE relayed_at IS NULL")
        .await?;
    new.exits(0, &["verify"]).await?;
    let replay = new.exits(0, &["replay", "--only", "unrelayed", "--dry-run"]).await?;
    assert!(!replay.contains("00000000-0000-0000-0000-000000000002"), "{replay}");
    relay.drain(PATIENCE).await?;
    assert_eq!(consumer.total(), 1);
    Ok(())
}
