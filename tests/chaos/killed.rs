//! `kill -9`, at random moments.

use anyhow::Result;
use harness::consumer::Consumer;
use harness::postgres::{Options, Postgres};
use harness::rabbitmq::RabbitMq;

use crate::round::{Allowed, Outcome, Round, Stage};
use harness::setting::Setting;

pub async fn relay(round: Round) -> Result<Outcome> {
    let mut stage = Stage::start(&round, Setting::shared().await?).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        stage.relay.kill9().await?;
        stage.run()?;
    }
    stage.repaired().await?;
    stage.judge(Allowed::default()).await
}

/// A quorum queue that survives its broker's death: RabbitMQ writes down that a new one exists
/// only some time after it was declared, and one killed before that never confirms again.
async fn known_queue(rabbitmq: &RabbitMq, setting: &Setting) -> Result<Consumer> {
    let consumer = setting.consumer().await?;
    rabbitmq.stop().await?;
    rabbitmq.start_again().await?;
    Ok(consumer)
}

pub async fn broker(round: Round) -> Result<Outcome> {
    let (rabbitmq, setting) = Setting::own_rabbitmq().await?;
    let consumer = known_queue(&rabbitmq, &setting).await?;
    let mut stage = Stage::with(&round, setting, consumer).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        rabbitmq.kill9().await?;
        stage.while_committing().await?;
        rabbitmq.start_again().await?;
        let repaired = stage.repaired().await;
        if repaired.is_err() {
            round.note(&rabbitmq.log());
        }
        repaired?;
    }
    stage.judge(Allowed::default()).await
}

/// What was acknowledged or marked and not on disk is forgotten; the relay remembers.
pub async fn postgres(round: Round) -> Result<Outcome> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..2 * round.faults() {
        stage.moment().await?;
        postgres.kill9().await?;
        postgres.start_again().await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

pub async fn relay_and_postgres(round: Round) -> Result<Outcome> {
    let (postgres, setting) = Setting::own_postgres().await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        if fastrand::bool() {
            postgres.kill9().await?;
            stage.relay.kill9().await?;
        } else {
            stage.relay.kill9().await?;
            postgres.kill9().await?;
        }
        postgres.start_again().await?;
        stage.run()?;
        stage.repaired().await?;
    }
    stage.judge(Allowed { any_repeats: true, ..Allowed::default() }).await
}

pub async fn all(round: Round) -> Result<Outcome> {
    let (rabbitmq, _) = Setting::own_rabbitmq().await?;
    let postgres = Postgres::start(Options::default()).await?;
    let (database, vhost) = (postgres.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (postgres.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    let consumer = known_queue(&rabbitmq, &setting).await?;
    let mut stage = Stage::with(&round, setting, consumer).await?;
    for _ in 0..round.faults() {
        stage.moment().await?;
        rabbitmq.kill9().await?;
        postgres.kill9().await?;
        stage.relay.kill9().await?;
        postgres.start_again().await?;
        stage.run()?;
        stage.while_committing().await?;
        rabbitmq.start_again().await?;
        stage.repaired().await?;
    }
    stage.judge(Allowed { any_repeats: true, ..Allowed::default() }).await
}
