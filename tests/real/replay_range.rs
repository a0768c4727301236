//! `pgoutbox replay` by when rows were delivered, and by when they were committed.

use anyhow::{Context, Result};
use harness::postgres::{self, Postgres, Shutdown};
use harness::scenario::Scenario;
use harness::shared;

use crate::bare::uuid;
use crate::replay::HASTY;
use crate::replay::Replays as _;
use crate::setting::{PATIENCE, Setting};

/// Rows by time.
trait Ranges {
    /// The numbers of the rows that a replay would send, in its order.
    async fn chosen(&self, args: &[&str]) -> Result<Vec<u32>>;
    /// A time as the command takes it.
    async fn time(&self, sql: &str) -> Result<String>;
}

impl Ranges for Setting {
    async fn chosen(&self, args: &[&str]) -> Result<Vec<u32>> {
        let told = self.replay(0, &[args, &["--dry-run"]].concat()).await?;
        let ids = told.lines().filter_map(|line| line.strip_prefix("would send ")?.get(24..36));
        ids.map(|id| Ok(id.parse()?)).collect()
    }

    async fn time(&self, sql: &str) -> Result<String> {
        let text = "YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"";
        self.ask(&format!("SELECT to_char(({sql}) AT TIME ZONE 'UTC', '{text}')")).await
    }
}

/// After an accident of a consumer's: what was delivered between two times.
#[tokio::test]
async fn rows_are_chosen_by_when_they_were_delivered() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    setting.fill(30).await?;
    let side_table = setting.clone().set("audit.mode", "side_table");
    // Row n was marked n minutes after ten; the last ten have no mark.
    let marked = "timestamptz '2026-11-22 10:00Z' + right(id::text, 2)::int * interval '1 minute'";
    let first = format!("WHERE id <= '{}'", uuid(20));
    setting.sql(&format!("UPDATE outbox_messages SET relayed_at = {marked} {first}")).await?;
    side_table
        .sql(&format!(
            "INSERT INTO pgoutbox.relayed (outbox, id, relayed_at)
             SELECT 'outbox_messages', id, {marked} + interval '1 hour' FROM outbox_messages {first}"
        ))
        .await?;
    let range = ["--relayed-since", "2026-11-22T10:05:00Z", "--relayed-until", "2026-11-22 10:08"];
    assert_eq!(setting.chosen(&range).await?, [5, 6, 7]);
    assert_eq!(setting.chosen(&["--relayed-since", "2026-11-22T10:19:00Z"]).await?, [19, 20]);
    assert_eq!(setting.chosen(&["--relayed-until", "2026-11-22T10:03:00Z"]).await?, [1, 2]);
    let of_one = [&range[..], &["--aggregate", "order/6", "--only", "relayed"]].concat();
    assert_eq!(setting.chosen(&of_one).await?, [6]);
    assert_eq!(side_table.chosen(&range).await?, [] as [u32; 0]);
    let range = ["--relayed-since", "2026-11-22T11:05:00Z", "--relayed-until", "2026-11-22 11:08"];
    assert_eq!(side_table.chosen(&range).await?, [5, 6, 7]);
    // A column without a time zone holds UTC: so the marks write it.
    setting
        .sql("ALTER TABLE outbox_messages ALTER relayed_at TYPE timestamp USING relayed_at AT TIME ZONE 'UTC';
              ALTER DATABASE :database SET timezone = 'Asia/Tokyo'".replace(":database", &format!("\"{}\"", setting.database)).as_str())
        .await?;
    assert_eq!(setting.chosen(&["--relayed-since", "2026-11-22T10:19:00Z"]).await?, [19, 20]);
    Ok(())
}

#[tokio::test]
async fn rows_are_chosen_by_when_they_were_committed() -> Result<()> {
    let own = Postgres::start(postgres::Options::default()).await?;
    let rabbitmq = shared::rabbitmq().await?;
    let (database, vhost) = (own.create_database().await?, rabbitmq.add_vhost().await?);
    let (database_url, amqp_url) = (own.url(&database), rabbitmq.url(&vhost));
    let setting = Setting::of(database, vhost, database_url, amqp_url).await?;
    let side_table = setting.clone().set("audit.mode", "side_table");
    let _consumer = setting.consumer().await?;
    setting.fill(2).await?;
    let since_ever = ["--committed-since", "2000-01-01"];

    // The server does not keep the times of commits.
    let told = side_table.replay(1, &since_ever).await?;
    for part in [
        "track_commit_timestamp is off",
        "ALTER SYSTEM SET track_commit_timestamp = on;",
        "restart",
        "--since and --until (occurred_at)",
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    setting.sql("ALTER SYSTEM SET track_commit_timestamp = on").await?;
    own.stop(Shutdown::Fast, PATIENCE).await?;
    own.start_again().await?;

    // By occurred_at 16, 15, 14, 13, 12, 11; by commit 13 and 12 in one, 11, 14, 15, 16.
    let row = |number: u32| {
        let at = 60 - number;
        format!(
            "INSERT INTO outbox_messages (id, topic, payload, occurred_at)
             VALUES ('{}', 't', '{{}}', '2024-01-01 00:00:{at}Z');",
            uuid(number)
        )
    };
    let both = format!("BEGIN; {} SAVEPOINT s; {} COMMIT;", row(13), row(12));
    for transaction in [both, row(11), row(14), row(15), row(16)] {
        setting.sql(&transaction).await?;
    }
    let told = side_table.replay(0, &[&since_ever[..], &["--dry-run"]].concat()).await?;
    assert!(told.contains("2 rows have no time of commit"), "{told}");
    assert_eq!(side_table.chosen(&since_ever).await?, [13, 12, 11, 14, 15, 16]);
    let committed = async |number: u32| -> Result<String> {
        let id = uuid(number);
        let sql =
            format!("SELECT pg_xact_commit_timestamp(xmin) FROM outbox_messages WHERE id = '{id}'");
        setting.time(&sql).await
    };
    let (since, until) = (committed(11).await?, committed(15).await?);
    let range = ["--committed-since", &since, "--committed-until", &until];
    assert_eq!(side_table.chosen(&range).await?, [11, 14]);
    assert_eq!(side_table.chosen(&["--committed-until", &since]).await?, [13, 12]);
    setting.clone().set("audit.mode", "none").chosen(&range).await?;

    // A mark beside the row leaves the row's transaction alone.
    let relay = side_table.run()?;
    let marked = "SELECT count(*) = 8 FROM pgoutbox.relayed";
    setting.until("marks beside the rows", marked).await.with_context(|| relay.log())?;
    relay.drain(PATIENCE).await?;
    assert_eq!(side_table.chosen(&range).await?, [11, 14]);

    // A mark in the row does not.
    let told = setting.replay(64, &range).await?;
    for part in ["a mark rewrites the row", "--relayed-since", "--only unrelayed"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    setting
        .sql(&format!("UPDATE outbox_messages SET relayed_at = now() WHERE id <> '{}'", uuid(14)))
        .await?;
    // A keepalive twice a second, so that the slot is soon where the WAL is.
    let relay = setting.clone().set("postgres.wal_sender_timeout", "1s").run()?;
    relay.reaches("running", PATIENCE).await?;
    let unmarked = [&range[..], &["--only", "unrelayed"]].concat();
    assert_eq!(setting.chosen(&unmarked).await?, [14]);
    relay.drain(PATIENCE).await
}

/// Events in the parking know their commit themselves.
#[tokio::test]
async fn discarded_events_are_chosen_by_when_they_were_committed() -> Result<()> {
    let setting = Scenario::with(HASTY).setting().await?;
    for number in 1..=4 {
        let at = format!("2026-01-02 03:04:0{number}Z");
        setting.put_row_aside(number, "discarded", "0/100", &at).await?;
    }
    let range = [
        "--discarded",
        "--committed-since",
        "2026-01-02T03:04:02Z",
        "--committed-until",
        "2026-01-02T03:04:04Z",
    ];
    assert_eq!(setting.chosen(&range).await?, [2, 3]);
    Ok(())
}
