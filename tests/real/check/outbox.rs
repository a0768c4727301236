//! Tables that are none, are elsewhere or are not alone.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use harness::shared;

use super::{hint, paste};
use crate::check::Checks as _;
use crate::setting::Setting;

#[tokio::test]
async fn what_is_no_table_in_the_wal() -> Result<()> {
    let setting = Setting::shared().await?;
    setting
        .sql(
            "CREATE VIEW shown AS SELECT * FROM outbox_messages;
             CREATE MATERIALIZED VIEW kept AS SELECT * FROM outbox_messages",
        )
        .await?;
    for name in ["shown", "kept"] {
        let checked = setting.clone().set("tables.0.name", name).check().await?;
        // Not that it is missing in the publication: it cannot be added to one.
        assert_eq!(checked.errors(), BTreeSet::from(["table-kind"]), "{checked}");
        checked.has("table-kind", "error");
    }
    let session = setting.client().await?;
    session.batch_execute("CREATE TEMPORARY TABLE outbox (LIKE outbox_messages)").await?;
    let schema = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'outbox' AND relpersistence = 't'";
    let schema: String = session.query_one(schema, &[]).await?.try_get(0)?;
    let temporary = setting.clone().set("tables.0.name", &format!("{schema}.outbox"));
    let checked = temporary.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["table-temporary"]), "{checked}");
    checked.has("table-temporary", "error");
    // What is said besides would be about another table.
    checked.has_not("publication-other-tables");
    checked.has_not("id-index");
    // Each is repaired in the configuration.
    assert_eq!(setting.check().await?.code, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_elsewhere() -> Result<()> {
    let setting = Setting::shared().await?;
    setting.sql("CREATE SCHEMA shop; ALTER TABLE outbox_messages SET SCHEMA shop").await?;
    let checked = setting.check().await?;
    assert_eq!(checked.errors(), BTreeSet::from(["table-missing"]), "{checked}");
    checked.has_not("publication-other-tables");
    let line = hint(checked.has("table-missing", "error")).split("  -- ").next();
    let name = line.and_then(|line| line.strip_prefix("[[tables]] name = \""));
    let name = name.context("no line")?.trim_end_matches('"');
    assert_eq!(name, "shop.outbox_messages");
    let checked = setting.clone().set("tables.0.name", name).check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    checked.has_not("publication-other-tables");
    Ok(())
}

/// What `init` would make is a second, empty one.
#[tokio::test]
async fn a_table_that_was_renamed() -> Result<()> {
    let setting = Setting::shared().await?;
    setting.sql("ALTER TABLE outbox_messages RENAME TO outbox_of_now").await?;
    let checked = setting.check().await?;
    setting.carry_out(checked.has("table-missing", "error")).await?;
    let checked = setting.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    Ok(())
}

#[tokio::test]
async fn marks_that_find_no_index() -> Result<()> {
    let setting = Setting::shared().await?;
    let drop = "ALTER TABLE outbox_messages DROP CONSTRAINT outbox_messages_pkey";
    setting.repairs("id-index", "warning", drop).await?;
    let index = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'outbox_messages'::regclass";
    let index: String = setting.ask(index).await?;
    // One that holds some rows only is not looked into, nor one that begins with something else.
    for instead in ["(id) WHERE relayed_at IS NOT NULL", "(topic, id)"] {
        setting.sql(&format!("DROP INDEX {index}")).await?;
        setting.sql(&format!("CREATE INDEX {index} ON outbox_messages {instead}")).await?;
        setting.check().await?.has("id-index", "warning");
    }
    // Nothing is looked up where nothing is marked.
    setting.clone().set("audit.mode", "none").check().await?.has_not("id-index");
    Ok(())
}

/// Of all tables, and of a schema's.
#[tokio::test]
async fn publications_of_more_than_the_outbox() -> Result<()> {
    let setting = Setting::shared().await?;
    let name = "publication-other-tables";
    if shared::postgres().await?.version() >= 15 {
        let schema = "CREATE TABLE stranger (n int);
             DROP PUBLICATION pgoutbox;
             CREATE PUBLICATION pgoutbox FOR TABLES IN SCHEMA public WITH (publish = 'insert')";
        setting.repairs(name, "warning", schema).await?;
    }
    setting
        .sql(
            "DROP PUBLICATION pgoutbox;
             CREATE PUBLICATION pgoutbox FOR ALL TABLES WITH (publish = 'insert')",
        )
        .await?;
    let checked = setting.check().await?;
    let found = checked.has(name, "warning");
    setting.carry_out(found).await?;
    let its_own = format!("{}_outbox", setting.database);
    assert!(hint(found).contains(&format!("--publication {its_own} --slot {its_own}")), "{found}");
    let rest = hint(found).split("postgres.slot, and: ").nth(1).context("no SQL")?;
    paste(&setting.database_url, rest).await?;
    let moved = setting.set("postgres.publication", &its_own).set("postgres.slot", &its_own);
    let checked = moved.check().await?;
    assert_eq!(checked.code, Some(0), "{checked}");
    checked.has_not(name);
    Ok(())
}

const TRIGGER: &str = "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN";

/// What keeps rows out of the stream, or marks out of rows.
#[tokio::test]
async fn rows_that_never_come_and_marks_that_never_stay() -> Result<()> {
    let setting = Setting::shared().await?;
    let alter = "ALTER TABLE outbox_messages";
    let default = format!("{alter} ALTER relayed_at SET DEFAULT now()");
    setting.repairs("mark-default", "error", &default).await?;
    let required = format!("{alter} ALTER relayed_at SET NOT NULL");
    setting.repairs("mark-default", "error", &required).await?;
    let child = "CREATE TABLE child () INHERITS (outbox_messages)";
    setting.repairs("table-children", "error", child).await?;
    // It is known only with a row to try.
    let before = format!(
        "{TRIGGER} RETURN NULL; END $$;
         CREATE TRIGGER \"stops it\" BEFORE UPDATE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION stop()"
    );
    setting.sql(&before).await?;
    let checked = setting.check().await?;
    let found = checked.has("mark-untried", "unknown");
    assert!(found["what"].to_string().contains("stops it"), "{found}");
    assert_eq!(checked.code, Some(0), "{checked}");
    setting
        .sql("DROP FUNCTION stop CASCADE; INSERT INTO outbox_messages (topic, payload) VALUES ('t', '{}')")
        .await?;
    setting.repairs("mark-swallowed", "error", &before).await?;
    let raises = before.replace("RETURN NULL", "RAISE 'append only'").replace("stop()", "halt()");
    setting.repairs("mark-fails", "error", &raises.replace("\"stops it\"", "raises")).await?;
    let rule = "CREATE RULE none AS ON UPDATE TO outbox_messages DO INSTEAD NOTHING";
    setting.repairs("mark-fails", "error", rule).await?;
    let others = format!(
        "{alter} DROP CONSTRAINT outbox_messages_pkey; CREATE PUBLICATION others FOR TABLE outbox_messages"
    );
    setting.repairs("replica-identity-missing", "error", &others).await?;
    let deleting = Setting::shared().await?.set("audit.mode", "delete");
    let refers = "CREATE TABLE receipts (event uuid REFERENCES outbox_messages)";
    deleting.repairs("table-referenced", "warning", refers).await?;
    let rows: i64 =
        setting.ask("SELECT count(*) FROM outbox_messages WHERE relayed_at IS NULL").await?;
    assert_eq!(rows, 1, "what was tried was taken back");
    Ok(())
}

/// Partitions whose rows are not in the WAL.
#[tokio::test]
async fn partitions_that_are_not_in_the_stream() -> Result<()> {
    let setting = Setting::bare().await?;
    setting
        .sql(
            "CREATE TABLE outbox_messages (id int, topic text, payload jsonb, relayed_at timestamptz)
                 PARTITION BY RANGE (id);
             CREATE INDEX ON outbox_messages (id);
             CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        )
        .await?;
    setting.init().await?;
    let later =
        "CREATE UNLOGGED TABLE \"Late r\" PARTITION OF outbox_messages FOR VALUES FROM (0) TO (9)";
    setting.repairs("table-unlogged", "error", later).await?;
    let far = "CREATE FOREIGN TABLE far PARTITION OF outbox_messages DEFAULT SERVER files OPTIONS (filename '/dev/null')";
    setting.repairs("partition-foreign", "error", far).await
}
