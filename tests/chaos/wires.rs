//! Each of the relay's connections cut, silent, and cut within a message.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::proxy::{Cut, Direction, Proxy};
use harness::wait_until;
use harness::wire::Wire;

use crate::round::{Allowed, Outcome, Round, Stage, outage};
use harness::setting::Setting;

#[derive(Clone, Copy)]
enum Fault {
    /// At any time, by FIN or RST.
    Cut,
    /// Silent, without a word, for a while.
    Stalled,
    /// After a random number of bytes: mostly within a message.
    Half,
}

pub async fn stream_cut(round: Round) -> Result<Outcome> {
    run(round, Wire::Stream, Fault::Cut).await
}
pub async fn stream_stalled(round: Round) -> Result<Outcome> {
    run(round, Wire::Stream, Fault::Stalled).await
}
pub async fn stream_half(round: Round) -> Result<Outcome> {
    run(round, Wire::Stream, Fault::Half).await
}
pub async fn audit_cut(round: Round) -> Result<Outcome> {
    run(round, Wire::Audit, Fault::Cut).await
}
pub async fn audit_stalled(round: Round) -> Result<Outcome> {
    run(round, Wire::Audit, Fault::Stalled).await
}
pub async fn audit_half(round: Round) -> Result<Outcome> {
    run(round, Wire::Audit, Fault::Half).await
}
pub async fn amqp_cut(round: Round) -> Result<Outcome> {
    run(round, Wire::Amqp, Fault::Cut).await
}
pub async fn amqp_stalled(round: Round) -> Result<Outcome> {
    run(round, Wire::Amqp, Fault::Stalled).await
}
pub async fn amqp_half(round: Round) -> Result<Outcome> {
    run(round, Wire::Amqp, Fault::Half).await
}

async fn run(round: Round, wire: Wire, fault: Fault) -> Result<Outcome> {
    let mut setting = Setting::shared().await?;
    let proxy = setting.through(wire).await?;
    let mut stage = Stage::start(&round, setting).await?;
    for _ in 0..3 * round.faults() {
        stage.moment().await?;
        strike(&round, &stage, &proxy, wire, fault).await.with_context(|| stage.relay.log())?;
        stage.repaired().await?;
    }
    stage.judge(Allowed::default()).await
}

async fn strike(
    round: &Round,
    stage: &Stage,
    proxy: &Proxy,
    wire: Wire,
    fault: Fault,
) -> Result<()> {
    let direction = if fastrand::bool() { Direction::Up } else { Direction::Down };
    let how = if fastrand::bool() { Cut::Fin } else { Cut::Rst };
    let before = proxy.connections();
    match fault {
        Fault::Cut => {
            proxy.refuse(true);
            proxy.cut(how);
            outage(Duration::from_millis(500)).await;
            proxy.refuse(false);
        }
        Fault::Stalled => {
            proxy.stall(direction);
            outage(Duration::from_secs(6)).await;
            proxy.resume(direction);
            // A short one may go by unseen.
            return Ok(());
        }
        Fault::Half => {
            // The relay tells the walsender 80 bytes a second.
            let most =
                if matches!(wire, Wire::Stream) && direction == Direction::Up { 6 } else { 14 };
            let bytes = fastrand::u64(1..1 << fastrand::u32(1..=most));
            proxy.cut_after(bytes, direction, how);
        }
    }
    wait_until("a new connection", round.patience(), async || {
        anyhow::ensure!(stage.relay.is_running(), "the relay has ended");
        Ok(proxy.connections() > before)
    })
    .await
}
