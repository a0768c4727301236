//! A test's database on the shared Postgres. Slots are the whole server's, are few, and each keeps WAL: those of a
//! test are dropped with the last handle to its database.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::postgres;
use crate::{retry, shared};

/// A new database on the shared Postgres. Its slots are dropped when this is.
#[derive(Debug)]
pub struct Corner {
    pub database: String,
    /// The superuser's.
    pub url: String,
}

impl Corner {
    pub async fn new() -> Result<Self> {
        let postgres = shared::postgres().await?;
        let database = postgres.create_database().await?;
        let url = postgres.url(&database);
        Ok(Self { database, url })
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        static LEFT: OnceLock<Sender<String>> = OnceLock::new();
        let sender = LEFT.get_or_init(|| {
            let (sender, left) = channel();
            // A test's runtime ends with the test.
            std::thread::spawn(move || give_back(&left));
            sender
        });
        let _ = sender.send(std::mem::take(&mut self.url));
    }
}

/// A test that failed has its slots dropped too: what is left to say of it is said where it failed.
fn give_back(left: &Receiver<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    while let Ok(url) = left.recv() {
        let dropped = retry("its slots to be free", Duration::from_secs(20), || drop_slots(&url));
        if let Err(error) = runtime.block_on(dropped) {
            eprintln!("the slots of {url} are left: {error:#}");
        }
    }
}

async fn drop_slots(url: &str) -> Result<()> {
    let client = postgres::connect(url).await?;
    let sql = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = current_database()";
    for row in client.query(sql, &[]).await? {
        let (slot, pid): (String, Option<i32>) = (row.get(0), row.get(1));
        if pid.is_some() {
            // The relay of a test that ended a moment ago.
            client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        }
        let drop = client.execute("SELECT pg_drop_replication_slot($1)", &[&slot]).await;
        drop.with_context(|| slot)?;
    }
    Ok(())
}
