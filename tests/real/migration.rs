//! From the version before to this one: `init` makes of its schema what it would have made itself, and nothing is
//! lost. What a version made is kept beside this file, once it is released.

use anyhow::{Result, ensure};
use harness::events::event;
use harness::scenario::QUICK;

use crate::setting::{PATIENCE, Setting, arrived, ids, uuid};

/// Each version that may be updated from, with its schema.
const BEFORE: [(&str, &str); 1] = [("0.1.0", include_str!("migration/0.1.0.sql"))];

/// What is in the schema, a line each. The order of columns is nobody's business.
const CATALOG: &str = "
SELECT string_agg(line, E'\\n' ORDER BY line COLLATE \"C\") FROM (
    SELECT format('column %s.%s %s %s %s', relname, attname, format_type(atttypid, atttypmod),
                  CASE WHEN attnotnull THEN 'NOT NULL' END, pg_get_expr(adbin, adrelid)) AS line
      FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE relnamespace = 'pgoutbox'::regnamespace AND relkind = 'r'
    UNION ALL
    SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
      FROM pg_constraint WHERE connamespace = 'pgoutbox'::regnamespace
    UNION ALL
    SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname = 'pgoutbox'
    UNION ALL
    SELECT format('function %s(%s) %s', proname, pg_get_function_identity_arguments(oid), md5(pg_get_functiondef(oid)))
      FROM pg_proc WHERE pronamespace = 'pgoutbox'::regnamespace) AS lines";

async fn setting() -> Result<Setting> {
    let bare = Setting::bare().await?;
    Ok(QUICK.iter().fold(bare, |setting, (key, value)| setting.set(key, value)))
}

#[tokio::test]
async fn init_makes_of_an_earlier_schema_what_it_makes_of_none() -> Result<()> {
    let fresh = setting().await?;
    fresh.init().await?;
    let wanted: String = fresh.ask(CATALOG).await?;
    for (version, schema) in BEFORE {
        let old = setting().await?;
        old.sql(schema).await?;
        ensure!(old.ask::<String>(CATALOG).await? != wanted, "{version} has nothing to update");
        old.init().await?;
        let is: String = old.ask(CATALOG).await?;
        for line in wanted.lines() {
            ensure!(is.lines().any(|one| one == line), "{version}: lacks {line}\n{is}");
        }
        for line in is.lines().filter(|line| !line.contains("constraint")) {
            ensure!(wanted.lines().any(|one| one == line), "{version}: has too much: {line}");
        }
        let again = old.init().await?;
        let is_found = again.contains("found   schema pgoutbox");
        ensure!(is_found, "{version}: a second init changes it again: {again}");
    }
    Ok(())
}

/// What the version before had parked, marked and recorded is there afterwards, and is delivered.
#[tokio::test]
async fn what_an_earlier_version_parked_is_delivered() -> Result<()> {
    for (version, schema) in BEFORE {
        let setting = setting().await?;
        setting.sql(schema).await?;
        setting.init().await?;
        let consumer = setting.bound("good").await?;
        setting.insert(event(1, "good").of("a")).await?;
        // As that version wrote it: with `mend`, and without what tells rows with one id apart.
        setting
            .sql(
                "UPDATE outbox_messages SET relayed_at = NULL;
                 INSERT INTO pgoutbox.parked (slot, outbox, event_id, aggregate_type, aggregate_id, commit_lsn, index, commit_time,
                                              state, is_holding, reason, last_error, mend, attempts, next_attempt_at, columns, cells)
                 SELECT current_database(), 'outbox_messages', id::text, aggregate_type, aggregate_id, '0/1', 0, now(),
                        'parked', true, 'returned', 'NO_ROUTE', 'bind a queue', 3, now(),
                        '[{\"name\": \"id\", \"type_oid\": 2950}, {\"name\": \"topic\", \"type_oid\": 25},
                          {\"name\": \"aggregate_type\", \"type_oid\": 25}, {\"name\": \"aggregate_id\", \"type_oid\": 25},
                          {\"name\": \"payload\", \"type_oid\": 3802}]',
                        ARRAY[convert_to(id::text, 'UTF8'), 'good', convert_to(aggregate_type, 'UTF8'),
                              convert_to(aggregate_id, 'UTF8'), '{}']
                   FROM outbox_messages",
            )
            .await?;
        let listed = setting.program.succeed(&["parked", "show", "--id", &uuid(1)]).await?;
        ensure!(listed.contains("bind a queue"), "{version}: {listed}");
        let relay = setting.run()?;
        setting.until("its record to be gone", "SELECT count(*) = 0 FROM pgoutbox.parked").await?;
        setting.all_marked().await?;
        ensure!(
            ids(&arrived(&consumer, 1).await?).contains(&uuid(1)),
            "{version}: it did not arrive"
        );
        relay.drain(PATIENCE).await?;
    }
    Ok(())
}
