//! Several hosts in one URL, of which the primary is found.

use anyhow::{Context, Result};
use harness::postgres::{Options, Postgres};
use harness::{shared, wait_until};

use crate::setting::{PATIENCE, Setting, arrived, ids, uuid};

/// A primary, its standby, and a setting whose URLs name both, the standby first or last.
async fn pair(is_standby_first: bool) -> Result<(Postgres, Postgres, Setting)> {
    let (primary, rabbitmq) =
        tokio::try_join!(Postgres::start(Options::default()), shared::rabbitmq())?;
    let (database, vhost) = (primary.create_database().await?, rabbitmq.add_vhost().await?);
    let standby = primary.standby(&[]).await?;
    let there = async || {
        let client = standby.connect("postgres").await?;
        let sql = "SELECT count(*) = 1 FROM pg_database WHERE datname = $1";
        Ok(client.query_one(sql, &[&database]).await?.try_get(0)?)
    };
    wait_until("the database on the standby", PATIENCE, there).await?;
    let (first, last) = match is_standby_first {
        true => (standby.port(), primary.port()),
        false => (primary.port(), standby.port()),
    };
    let url = format!(
        "postgres://postgres@127.0.0.1:{first},127.0.0.1:{last}/{database}?target_session_attrs=read-write"
    );
    let setting = Setting::of(database.clone(), vhost.clone(), url, rabbitmq.url(&vhost)).await?;
    Ok((primary, standby, setting))
}

async fn insert(server: &Postgres, setting: &Setting, numbers: std::ops::Range<u32>) -> Result<()> {
    let rows: Vec<_> = numbers
        .map(|number| format!("('{}', 'order', 'a', 'order.placed', '{number}')", uuid(number)))
        .collect();
    let sql = format!(
        "INSERT INTO outbox_messages (id, aggregate_type, aggregate_id, topic, payload) VALUES {}",
        rows.join(", ")
    );
    server.execute(&setting.database, &sql).await
}

/// Every connection finds the primary, whichever host comes first; and the new one, once the old one
/// is gone. What nobody had delivered by then is delivered.
async fn follows(is_standby_first: bool) -> Result<()> {
    let (primary, standby, setting) = pair(is_standby_first).await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    insert(&primary, &setting, 0..10).await?;
    arrived(&consumer, 10).await.with_context(|| relay.log())?;
    setting.program.succeed(&["check"]).await?;
    setting.program.succeed(&["pause", "--note", "failover"]).await?;
    relay.reaches("paused", PATIENCE).await?;
    insert(&primary, &setting, 10..20).await?;
    let copied = async || {
        let client = standby.connect(&setting.database).await?;
        let sql = "SELECT count(*) = 20 FROM outbox_messages";
        Ok(client.query_one(sql, &[]).await?.try_get(0)?)
    };
    wait_until("the rows on the standby", PATIENCE, copied).await?;
    primary.kill9().await?;
    // Nobody is the primary: that is waited out, and told of each host.
    let none = relay.wait_for_log("no host is the primary", PATIENCE).await?;
    assert!(none.contains(&format!("127.0.0.1:{}/", primary.port())), "{none}");
    assert!(
        none.contains(&format!(
            "127.0.0.1:{}/{}: it is a standby",
            standby.port(),
            setting.database
        )),
        "{none}"
    );
    standby.promote().await?;
    setting.program.succeed(&["resume"]).await?;
    arrived(&consumer, 20).await.with_context(|| relay.log())?;
    insert(&standby, &setting, 20..30).await?;
    let came = ids(&arrived(&consumer, 30).await.with_context(|| relay.log())?);
    let all: Vec<_> = (0..30).map(uuid).collect();
    assert_eq!(came, all, "{}", relay.log());
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn the_primary_is_found_and_followed_when_it_is_first() -> Result<()> {
    follows(false).await
}

#[tokio::test]
async fn the_primary_is_found_and_followed_when_it_is_last() -> Result<()> {
    follows(true).await
}
