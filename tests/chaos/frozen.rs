//! Those that neither work nor end: SIGSTOP, alarms, commits that wait for a standby.

use std::time::Duration;

use anyhow::Result;
use harness::wait_until;

use crate::round::{Allowed, Outcome, Round, Stage, outage};
use harness::setting::Setting;

/// Sometimes longer than the others' patience, which is 2 s to 4 s here, and sometimes not.
const FREEZE: Duration = Duration::from_secs(7);

pub async fn relay(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, Setting::shared().await?).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        stage.relay.sigstop()?;
        outage(FREEZE).await;
        stage.relay.sigcont()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn broker(round: Round) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        rabbitmq.sigstop()?;
        outage(FREEZE).await;
        rabbitmq.sigcont()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn postgres(round: Round) -> Result<Outcome> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        postgres.sigstop()?;
        outage(FREEZE).await;
        postgres.sigcont()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

#[derive(Clone, Copy)]
enum Alarm {
    Memory,
    Disk,
}

pub async fn memory_alarm(round: Round) -> Result<Outcome> {
    alarm(round, Alarm::Memory).await
}

pub async fn disk_alarm(round: Round) -> Result<Outcome> {
    alarm(round, Alarm::Disk).await
}

async fn alarm(round: Round, which: Alarm) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let mut stage = Stage::start(&round, setting).await?;
    let raise = async |on| match which {
        Alarm::Memory => rabbitmq.memory_alarm(on).await,
        Alarm::Disk => rabbitmq.disk_alarm(on).await,
    };
    for _ in 0..round.faults() {
        stage.moment().await?;
        raise(true).await?;
        stage.relay.is_down("broker_blocked", round.patience()).await?;
        stage.while_committing().await?;
        outage(FREEZE).await;
        raise(false).await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

/// Commits are in the WAL and wait for a standby that is not there: the stream may have them
/// before their writers know, and the relay's own marks wait like all others.
pub async fn synchronous(round: Round) -> Result<Outcome> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        postgres
            .execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'absent'")
            .await?;
        postgres.execute("postgres", "SELECT pg_reload_conf()").await?;
        let client = postgres.connect("postgres").await?;
        wait_until("a commit to wait", round.patience(), async || {
            Ok(client.query_one(waits, &[]).await?.try_get(0)?)
        })
        .await?;
        outage(FREEZE).await;
        // Who asks for it himself need not wait.
        client.batch_execute("SET synchronous_commit = local").await?;
        client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}
