//! Rows that the configuration leaves out: nobody publishes, marks, misses, replays or removes them.

use anyhow::{Context, Result};
use harness::wait_until;
use serde_json::Value;

use crate::bare::ids;
use crate::check::Checks as _;
use crate::setting::{PATIENCE, Setting};

/// Who leaves the rows out.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// The relay: the publication has no filter, and could have none over an enum.
    Relay,
    /// The publication, by the filter that `init` gave it, from Postgres 15 on.
    Publication,
}

async fn setting(mode: &str, by: By) -> Result<Setting> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "box")
        .set("tables.0.columns.event_type", "kind")
        .set("tables.0.only.event_type", "order.paid,it's \"odd\"")
        .set("tables.0.except.is_test", "true")
        .set("audit.mode", mode)
        .set("reconcile.interval", "1s")
        .set("reconcile.age", "1s")
        .set("reconcile.republish", "true")
        .set("audit.hold", "1s")
        .set("audit.give_up", "1s");
    let kind = if by == By::Relay { "kind" } else { "varchar(20)" };
    setting
        .sql(&format!(
            "CREATE TYPE kind AS ENUM ('order.paid', 'order.seen', 'it''s \"odd\"');
             CREATE TABLE box (id text PRIMARY KEY, kind {kind}, is_test boolean, topic text DEFAULT 'here',
                 payload jsonb DEFAULT '1', occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)"
        ))
        .await?;
    if by == By::Relay {
        setting.sql("CREATE PUBLICATION pgoutbox FOR TABLE box WITH (publish = 'insert')").await?;
    }
    setting.init().await?;
    Ok(setting)
}

/// Two rows that go, four that stay.
async fn insert(setting: &Setting, n: u32) -> Result<()> {
    setting
        .sql(&format!(
            "INSERT INTO box (id, kind, is_test) VALUES
                 ('paid {n}', 'order.paid', NULL), ('seen {n}', 'order.seen', false), ('test {n}', 'order.paid', true),
                 ('odd {n}', 'it''s \"odd\"', false), ('none {n}', NULL, false), ('both {n}', 'order.seen', true)"
        ))
        .await
}

async fn follows_its_rule(mode: &str, by: By) -> Result<()> {
    let setting = setting(mode, by).await?;
    let can_filter: bool =
        setting.ask("SELECT current_setting('server_version_num')::integer >= 150000").await?;
    let left_out = if by == By::Publication && can_filter { 0 } else { 4 };
    let consumer = setting.bound("here").await?;
    let relay = setting.run()?;
    let came = async |wanted: &[&str]| {
        let mut wanted: Vec<_> = wanted.iter().map(|id| (*id).to_owned()).collect();
        wanted.sort();
        let waited = wait_until("the rows that go", PATIENCE, async || {
            let mut came = ids(&consumer.deliveries(<[_]>::to_vec));
            came.sort();
            Ok(came == wanted)
        });
        waited
            .await
            .with_context(|| format!("{mode}: {:?}", ids(&consumer.deliveries(<[_]>::to_vec))))
    };
    let left = |rows: i64| {
        format!("SELECT count(*) = {rows} FROM box WHERE relayed_at IS NULL AND id !~ 'paid|odd'")
    };
    insert(&setting, 1).await?;
    came(&["paid 1", "odd 1"]).await?;
    relay.drain(PATIENCE).await?;
    assert!(relay.log().contains(&format!("left_out={left_out}")), "{}", relay.log());

    // A lost slot: the list has none of them.
    setting.sql("SELECT pg_drop_replication_slot(current_database())").await?;
    insert(&setting, 2).await?;
    let relay = setting.run()?;
    came(&["paid 1", "odd 1", "paid 2", "odd 2"]).await?;
    setting.until("what is left out stays as it is", &left(8)).await?;

    let verified: Value = serde_json::from_slice(
        &setting.program.output(&["verify", "--exact", "--json"]).await?.stdout,
    )?;
    let table = &verified["tables"][0];
    let rows = if mode == "delete" { 0 } else { 4 };
    assert_eq!(table["committed"]["rows"], rows, "{mode}: {table}");
    assert_eq!(table["unmarked"]["rows"], 0, "{mode}: {table}");

    // Reconciliation would have sent them by the time that a row without its mark comes again.
    if mode == "update" {
        setting.sql("UPDATE box SET relayed_at = NULL WHERE id = 'paid 1'").await?;
        came(&["paid 1", "odd 1", "paid 2", "odd 2", "paid 1"]).await?;
        // The reconciliation ends with the process, at whatever it is.
        setting
            .until(
                "it to be marked again",
                "SELECT relayed_at IS NOT NULL FROM box WHERE id = 'paid 1'",
            )
            .await?;
    }
    relay.drain(PATIENCE).await?;
    if mode != "delete" {
        setting.program.succeed(&["replay", "--all", "--rate", "100000"]).await?;
        let before = if mode == "update" { 5 } else { 4 };
        wait_until("the replay", PATIENCE, async || {
            Ok(consumer.deliveries(<[_]>::len) == before + 4)
        })
        .await?;
        setting.program.succeed(&["prune", "--keep", "0s"]).await?;
    }
    setting.until("only what went is gone", "SELECT count(*) = 8 FROM box").await?;
    Ok(())
}

#[tokio::test]
async fn what_a_rule_leaves_out_is_nobodys_with_marks_in_rows() -> Result<()> {
    follows_its_rule("update", By::Relay).await
}

#[tokio::test]
async fn what_a_rule_leaves_out_is_nobodys_with_rows_removed() -> Result<()> {
    follows_its_rule("delete", By::Relay).await
}

#[tokio::test]
async fn what_a_rule_leaves_out_is_nobodys_with_marks_beside() -> Result<()> {
    follows_its_rule("side_table", By::Relay).await
}

#[tokio::test]
async fn what_the_publication_leaves_out_is_nobodys_with_marks_in_rows() -> Result<()> {
    follows_its_rule("update", By::Publication).await
}

#[tokio::test]
async fn what_the_publication_leaves_out_is_nobodys_with_rows_removed() -> Result<()> {
    follows_its_rule("delete", By::Publication).await
}

#[tokio::test]
async fn what_the_publication_leaves_out_is_nobodys_with_marks_beside() -> Result<()> {
    follows_its_rule("side_table", By::Publication).await
}

#[tokio::test]
async fn a_rule_that_the_table_does_not_fit_is_refused() -> Result<()> {
    let cases = [
        ("only.gone", "x", "has no column \"gone\" for only.gone"),
        ("except.payload", "x", "cannot be read as except.payload"),
        ("only.is_test", "yes", "is neither true nor false"),
        ("only.n", "007", "is not a number as Postgres writes it"),
    ];
    for (key, value, wanted) in cases {
        let setting = Setting::bare()
            .await?
            .set("tables.0.name", "box")
            .set(&format!("tables.0.{key}"), value);
        setting
            .sql("CREATE TABLE box (id text PRIMARY KEY, payload jsonb, topic text, is_test boolean, n int, relayed_at timestamptz)")
            .await?;
        let output = setting.program.output(&["init"]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{key}: {said}");
        assert!(said.contains(wanted) && said.contains("hint: "), "{key}: {said}");
    }
    Ok(())
}

/// From Postgres 15 on `init` has the publication leave out what the rule does; what comes is the same. What the
/// filter says otherwise than the rule, `check` says, with the SQL.
#[tokio::test]
async fn a_rule_is_the_filter_of_the_publication_that_init_makes() -> Result<()> {
    let setting = Setting::bare()
        .await?
        .set("tables.0.name", "box")
        .set("tables.0.only.kind", "a,it's")
        .set("tables.0.only.status", "open,closed")
        .set("tables.0.except.n", "-7,8")
        .set("tables.0.except.is_test", "true");
    setting
        .sql(
            "CREATE TYPE status AS ENUM ('open', 'closed', 'lost');
             CREATE TABLE box (id text PRIMARY KEY, kind varchar(20), status status DEFAULT 'open', n smallint, is_test boolean,
                 topic text DEFAULT 't', payload jsonb DEFAULT '1', occurred_at timestamptz DEFAULT clock_timestamp(), relayed_at timestamptz)",
        )
        .await?;
    setting.init().await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    setting
        .sql(
            "INSERT INTO box (id, kind, status, n, is_test) VALUES
                 ('kind', 'b', 'open', 1, false), ('null', NULL, 'open', 1, false), ('n', 'a', 'open', -7, false),
                 ('test', 'a', 'open', 1, true), ('status', 'a', 'lost', 1, false), ('nulls', 'it''s', 'closed', NULL, NULL),
                 ('all', 'a', 'open', 7, false)",
        )
        .await?;
    let came = crate::bare::arrived(&consumer, 2).await?;
    assert_eq!(ids(&came), ["nulls", "all"]);
    relay.drain(PATIENCE).await?;
    let can_filter: bool =
        setting.ask("SELECT current_setting('server_version_num')::integer >= 150000").await?;
    // The enum alone is left to the relay.
    let left = if can_filter { "left_out=1" } else { "left_out=5" };
    assert!(relay.log().contains(left), "{}", relay.log());
    if !can_filter {
        return Ok(());
    }
    let check = async || {
        let output = setting.program.output(&["check"]).await?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let said = check().await?;
    assert!(said.contains("leaves out what the rule of public.box does"), "{said}");
    // Another filter, and none: what it says puts it right.
    for filter in ["WHERE (n > 3)", ""] {
        setting
            .sql(&format!("ALTER PUBLICATION pgoutbox DROP TABLE box; ALTER PUBLICATION pgoutbox ADD TABLE box {filter}"))
            .await?;
        let said = check().await?;
        match filter {
            "" => setting.check().await?.has("publication-rule", "warning"),
            _ => setting.check().await?.has("publication-row-filter", "warning"),
        };
        let wanted = if filter.is_empty() {
            "sends rows of public.box that its rule"
        } else {
            "otherwise than tables.N.only"
        };
        let (_, hint) = said.split_once(wanted).with_context(|| said.clone())?;
        let (_, hint) = hint.split_once("hint: ").with_context(|| said.clone())?;
        let (hint, _) = hint.split_once("  -- ").with_context(|| said.clone())?;
        setting.sql(hint).await?;
        let said = check().await?;
        assert!(said.contains("leaves out what the rule of public.box does"), "{said}");
    }
    Ok(())
}
