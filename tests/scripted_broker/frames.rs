//! The size of frames is the broker's to offer, and lapin's buffers are 32 of them.

use anyhow::Result;
use harness::fake_broker::{AckAtOnce, FakeBroker};

use crate::setting::{PATIENCE, Setting};

/// Reserved, used or not: below the two buffers of 512 MiB that frames of 16 MiB would mean.
const MOST: u64 = 1 << 30;

#[tokio::test]
async fn a_broker_with_huge_frames_or_no_limit_costs_no_memory() -> Result<()> {
    for frame_max in [0, 16 << 20, u32::MAX] {
        let broker = FakeBroker::start_with(AckAtOnce::default(), frame_max).await?;
        let setting = Setting::of(broker).await?;
        let relay = setting.run()?;
        setting.insert(1..=10).await?;
        setting.came(10).await?;
        let peak = relay.peak_reserved_bytes()?;
        assert!(peak < MOST, "frames of {frame_max}: {} MiB", peak >> 20);
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
