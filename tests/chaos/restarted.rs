//! Stops and starts in order.

use std::time::Duration;

use anyhow::Result;
use harness::postgres::Shutdown;

use crate::round::{Allowed, Outcome, Round, Stage};
use harness::setting::Setting;

pub async fn relay(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, Setting::shared().await?).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        stage.relay.drain(round.patience()).await?;
        stage.while_committing().await?;
        stage.run()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn broker(round: Round) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        rabbitmq.stop().await?;
        stage.while_committing().await?;
        rabbitmq.start_again().await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn postgres(round: Round) -> Result<Outcome> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        let how = if fastrand::bool() { Shutdown::Fast } else { Shutdown::Immediate };
        postgres.stop(how, Duration::from_secs(20)).await?;
        postgres.start_again().await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

/// What an operator ends by hand: the walsender, the audit connection, the broker's connections.
pub async fn connections(round: Round) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let mut stage = Stage::start(&round, setting).await?;
    let ours = "application_name LIKE 'pgoutbox/%' AND datname = current_database()";
    for _ in 0..round.faults() {
        stage.moment().await?;
        match fastrand::u8(0..3) {
            0 => rabbitmq.close_all_connections().await?,
            1 => {
                let sql =
                    format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}");
                stage.setting.sql(&sql).await?;
            }
            _ => {
                let sql = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours} AND backend_type = 'walsender'"
                );
                stage.setting.sql(&sql).await?;
            }
        }
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}
