//! A standby becomes the primary.

use std::time::Duration;

use anyhow::Result;
use harness::postgres::{Options, Postgres, Shutdown};
use harness::{shared, wait_until};

use crate::round::{Allowed, Outcome, Round, Skipped, Stage};
use harness::setting::{Setting, program};

/// Postgres keeps a slot on its standbys from this version on.
const SLOTS_FAIL_OVER: u32 = 17;

pub async fn with_slot(round: Round) -> Result<Outcome> {
    promote(round, true).await
}

pub async fn without_slot(round: Round) -> Result<Outcome> {
    promote(round, false).await
}

async fn promote(round: Round, keeps_slot: bool) -> Result<Outcome> {
    let options = Options { conf: vec!["wal_keep_size = 256MB".to_owned()], ..Options::default() };
    let (primary, rabbitmq) = tokio::try_join!(Postgres::start(options), shared::rabbitmq())?;
    if keeps_slot && primary.version() < SLOTS_FAIL_OVER {
        let version = primary.version();
        return Err(Skipped(format!("needs Postgres {SLOTS_FAIL_OVER}, this is {version}")).into());
    }
    let (database, vhost) = (primary.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (primary.url(&database), rabbitmq.url(&vhost));
    let mut setting = Setting::of(database.clone(), vhost, database_url, amqp_url).await?;
    if keeps_slot {
        // The same slot again, which is to be kept on standbys.
        let sql = format!(
            "SELECT pg_drop_replication_slot('{database}');
             SELECT pg_create_logical_replication_slot('{database}', 'pgoutput', false, false, true)"
        );
        primary.execute(&database, &sql).await?;
    } else {
        setting.env("PGOUTBOX_POSTGRES__ON_SLOT_LOSS", "catch_up");
    }
    primary
        .execute("postgres", "SELECT pg_create_physical_replication_slot('standby', true)")
        .await?;
    let mut conf = vec!["primary_slot_name = 'standby'", "hot_standby_feedback = on"];
    let to_primary = format!(
        "primary_conninfo = 'host={} port={} user=postgres dbname=postgres'",
        primary.socket().display(),
        primary.port()
    );
    if keeps_slot {
        conf.push("wal_receiver_status_interval = 1s");
    }
    let standby = primary.standby(&conf).await?;
    if keeps_slot {
        // The one of the copy names no database, which copying slots needs.
        let with_database = format!("ALTER SYSTEM SET {to_primary}");
        standby.execute("postgres", &with_database).await?;
        standby.execute("postgres", "ALTER SYSTEM SET sync_replication_slots = on").await?;
        standby.execute("postgres", "SELECT pg_reload_conf()").await?;
    }

    let mut stage = Stage::start(&round, setting).await?;
    stage.moment().await?;
    if keeps_slot {
        let client = standby.connect("postgres").await?;
        let sql = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary";
        let on_primary = primary.connect("postgres").await?;
        let copied = wait_until("the slot on the standby", round.patience(), async || {
            // The copy is kept once the slot has passed one of these.
            on_primary.batch_execute("SELECT pg_log_standby_snapshot()").await?;
            Ok(client.query_one(sql, &[&database]).await?.try_get(0)?)
        });
        if let Err(error) = copied.await {
            round.note(&standby.log());
            return Err(error);
        }
    }
    stage.moment().await?;
    // What is committed last has not been delivered when the primary goes; an orderly stop sends
    // it all to the standby: what a crash loses on the way there was never the relay's to deliver.
    stage.relay.kill9().await?;
    stage.while_committing().await?;
    stage.load.stop();
    let before = stage.load.finish().await?;
    primary.stop(Shutdown::Fast, Duration::from_secs(30)).await?;
    standby.promote().await?;

    stage.setting.database_url = standby.url(&database);
    let mut moved = program(&database, &stage.setting.database_url, &stage.setting.amqp_url);
    if !keeps_slot {
        moved = moved.env("PGOUTBOX_POSTGRES__ON_SLOT_LOSS", "catch_up");
    }
    stage.setting.program = moved;
    crate::round::quick(&mut stage.setting);
    stage.load_again(&before).await?;
    stage.run()?;
    stage.repaired().await?;
    // The slot on the standby is as old as its last copy, and progress of another timeline does
    // not count.
    stage.judge_with(Allowed { any_repeats: true, ..Allowed::default() }, before).await
}
