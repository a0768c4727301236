//! Marks that the server refuses: one row never stops the others, nor does one table.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use harness::consumer::Consumer;
use harness::http::get;
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::wait_until;

use crate::bare::{ids, uuid};
use crate::setting::{PATIENCE, Setting};

/// Rows of one transaction, one of them bad.
const ROWS: u32 = 100;
const BAD: u32 = 37;
/// Rows of a transaction each, after that.
const MORE: u32 = 20;

/// What refuses the mark of the bad row: the mode, SQL that is run once the rows are there, and
/// what the log says of it.
type Case = (&'static str, &'static str, &'static str);

/// A trigger that does this with the bad row, or with its mark beside the outbox.
macro_rules! trigger {
    ($event:literal, $body:literal) => {
        concat!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ",
            $body,
            " END $$; CREATE TRIGGER refuse ",
            $event,
            " FOR EACH ROW WHEN (OLD.topic = 'bad') EXECUTE FUNCTION refuse()"
        )
    };
}

const CASES: [Case; 13] = [
    (
        "update",
        "ALTER TABLE outbox_messages ADD CONSTRAINT refuses CHECK (topic <> 'bad') NOT VALID",
        "SQLSTATE 23514",
    ),
    (
        "update",
        trigger!("BEFORE UPDATE ON outbox_messages", "RAISE 'no' USING ERRCODE = '22012';"),
        "no (SQLSTATE 22012)",
    ),
    (
        "update",
        trigger!("AFTER UPDATE ON outbox_messages", "RAISE 'no' USING ERRCODE = '42501';"),
        "no (SQLSTATE 42501)",
    ),
    (
        "update",
        trigger!("BEFORE UPDATE ON outbox_messages", "RAISE 'no' USING ERRCODE = '40001';"),
        "no (SQLSTATE 40001)",
    ),
    (
        "update",
        trigger!("BEFORE UPDATE ON outbox_messages", "RAISE 'no' USING ERRCODE = '57014';"),
        "no (SQLSTATE 57014)",
    ),
    (
        "update",
        trigger!("BEFORE UPDATE ON outbox_messages", "RAISE 'no' USING ERRCODE = 'XX000';"),
        "no (SQLSTATE XX000)",
    ),
    (
        "update",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'late'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON outbox_messages DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (OLD.topic = 'bad') EXECUTE FUNCTION refuse()",
        "late (SQLSTATE P0001)",
    ),
    (
        "update",
        // Only one row may be marked, and one is.
        "UPDATE outbox_messages SET topic = 'bad', relayed_at = now() WHERE id::text LIKE '%01';
         CREATE UNIQUE INDEX ON outbox_messages (topic) WHERE topic = 'bad' AND relayed_at IS NOT NULL",
        "SQLSTATE 23505",
    ),
    (
        "update",
        trigger!("BEFORE UPDATE ON outbox_messages", "RETURN NULL;"),
        "a trigger or rule keeps it unmarked",
    ),
    (
        "delete",
        "CREATE TABLE refers (id uuid REFERENCES outbox_messages (id));
         INSERT INTO refers SELECT id FROM outbox_messages WHERE topic = 'bad'",
        "SQLSTATE 23503",
    ),
    (
        "delete",
        trigger!("BEFORE DELETE ON outbox_messages", "RETURN NULL;"),
        "a trigger or rule keeps it unmarked",
    ),
    (
        "delete",
        trigger!("BEFORE DELETE ON outbox_messages", "RAISE 'no' USING ERRCODE = '55000';"),
        "no (SQLSTATE 55000)",
    ),
    (
        "side_table",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON pgoutbox.relayed
            FOR EACH ROW WHEN (NEW.id LIKE '%37') EXECUTE FUNCTION refuse()",
        "no (SQLSTATE P0001)",
    ),
];

const SOON: Settings = &[("audit.hold", "1s"), ("audit.give_up", "3s")];

/// Everything came once.
async fn all_once(consumer: &Consumer, count: usize, relay: &Relay) -> Result<()> {
    consumer.wait_distinct(count, PATIENCE).await.with_context(|| relay.log())?;
    ensure!(consumer.total() == count, "{} came", consumer.total());
    Ok(())
}

/// Counts the rows that wait for their mark.
fn unmarked(mode: &str) -> &'static str {
    match mode {
        "update" => "SELECT count(*) FROM outbox_messages WHERE relayed_at IS NULL",
        "delete" => "SELECT count(*) FROM outbox_messages",
        _ => {
            "SELECT (SELECT count(*) FROM outbox_messages) - (SELECT count(*) FROM pgoutbox.relayed)"
        }
    }
}

async fn one_bad_row((mode, sql, says): Case) -> Result<()> {
    let setting = Scenario::with(SOON).set("audit.mode", mode).setting().await?;
    let consumer = setting.consumer().await?;
    let client = setting.client().await?;
    client
        .batch_execute(&format!(
            "INSERT INTO outbox_messages (id, topic, payload)
             SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid,
                    CASE WHEN n = {BAD} THEN 'bad' ELSE 'good' END, '{{}}'
               FROM generate_series(1, {ROWS}) AS n"
        ))
        .await?;
    client.batch_execute(sql).await.context(sql)?;
    let relay = setting.run()?;
    consumer.wait_distinct(ROWS as usize, PATIENCE).await.with_context(|| relay.log())?;
    for number in 1..=MORE {
        let id = uuid(1_000 + number * 100);
        let insert = format!(
            "INSERT INTO outbox_messages (id, topic, payload) VALUES ('{id}', 'good', '{{}}')"
        );
        client.batch_execute(&insert).await?;
    }
    let others = format!("SELECT ({}) = 1", unmarked(mode));
    setting.until("the others' marks", &others).await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    let given_up = relay.wait_for_log("is given up", PATIENCE).await?;
    for part in [says, uuid(BAD).as_str(), "public.outbox_messages"] {
        ensure!(given_up.contains(part), "{part:?} is not in {given_up}");
    }
    all_once(&consumer, (ROWS + MORE) as usize, &relay).await?;
    ensure!(relay.sessions() == 1, "{}", relay.log());
    relay.drain(PATIENCE).await?;
    let ended = relay.wait_for_log("session ended", PATIENCE).await?;
    ensure!(ended.contains("marks_given_up=1"), "{ended}");
    Ok(())
}

#[tokio::test]
async fn a_row_that_refuses_its_mark_stops_no_other() -> Result<()> {
    for some in CASES.chunks(5) {
        let cases = some
            .iter()
            .map(async |case| one_bad_row(*case).await.with_context(|| format!("{case:?}")));
        try_join_all(cases).await?;
    }
    Ok(())
}

/// What keeps all rows of a table from being marked, and what ends that.
const TABLES: [(&str, &str, &str, &str); 6] = [
    (
        "update",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON outbox_a FOR EACH ROW EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON outbox_a",
        "never (SQLSTATE P0001)",
    ),
    (
        "update",
        "CREATE RULE refuse AS ON UPDATE TO outbox_a DO INSTEAD NOTHING",
        "DROP RULE refuse ON outbox_a",
        "cannot perform UPDATE RETURNING on relation",
    ),
    (
        "update",
        "ALTER TABLE outbox_a DROP CONSTRAINT outbox_a_pkey; CREATE PUBLICATION other FOR TABLE outbox_a",
        "ALTER TABLE outbox_a REPLICA IDENTITY FULL",
        "REPLICA IDENTITY FULL",
    ),
    ("update", "REVOKE UPDATE ON outbox_a FROM audit", "GRANT UPDATE ON outbox_a TO audit", "SQLSTATE 42501"),
    (
        "delete",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
         CREATE TRIGGER refuse BEFORE DELETE ON outbox_a FOR EACH ROW EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON outbox_a",
        "never (SQLSTATE P0001)",
    ),
    (
        "side_table",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON pgoutbox.relayed
            FOR EACH ROW WHEN (NEW.outbox = 'outbox_a'::regclass) EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON pgoutbox.relayed",
        "never (SQLSTATE P0001)",
    ),
];

/// What `init` makes for two tables, with roles of its own: an owner's marks cannot be revoked.
async fn two_tables(mode: &str) -> Result<(Setting, String)> {
    let owner = Setting::bare()
        .await?
        .set("audit.mode", mode)
        .set("audit.hold", "1s")
        .set("audit.give_up", "60s")
        .set("tables.0.name", "outbox_a")
        .set("tables.1.name", "outbox_b");
    for name in ["outbox_a", "outbox_b"] {
        owner
            .sql(&format!(
                "CREATE TABLE {name} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text DEFAULT 't',
                     payload jsonb DEFAULT '1', relayed_at timestamptz)"
            ))
            .await?;
    }
    let setting = owner.with_roles().await?;
    Ok((setting, owner.audit_role()))
}

async fn one_bad_table((mode, sql, repaired, says): (&str, &str, &str, &str)) -> Result<()> {
    let (setting, audit) = two_tables(mode).await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    let client = setting.client().await?;
    client.batch_execute(&sql.replace("audit", &audit)).await.context(sql.to_owned())?;
    let mut count = 0;
    for _ in 0..30 {
        client.batch_execute("INSERT INTO outbox_a SELECT FROM generate_series(1, 10)").await?;
        client.batch_execute("INSERT INTO outbox_b SELECT FROM generate_series(1, 10)").await?;
        count += 20;
    }
    all_once(&consumer, count, &relay).await?;
    let unmarked = |table: &str| match mode {
        "update" => format!("SELECT count(*) FROM {table} WHERE relayed_at IS NULL"),
        "delete" => format!("SELECT count(*) FROM {table}"),
        _ => format!(
            "SELECT count(*) FROM {table} WHERE id::text NOT IN (SELECT id FROM pgoutbox.relayed WHERE outbox = '{table}'::regclass)"
        ),
    };
    let others = format!("SELECT ({}) = 0", unmarked("outbox_b"));
    setting.until("the other table's marks", &others).await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    let told = relay.wait_for_log("no row of public.outbox_a can be marked", PATIENCE).await?;
    let address = relay.http(PATIENCE).await?;
    // Events get through: it is ready, and says what is refused, and for a right what gives it back.
    let ready = get(address, "/readyz").await?;
    let refused = ready.json()?["degraded"][0].clone();
    ensure!(ready.code == 200 && refused["code"] == "marks_refused", "{}", ready.body);
    let said = refused["what"].as_str().unwrap_or_default();
    let hint = refused["hint"].as_str().unwrap_or_default().to_owned();
    ensure!(said.contains("public.outbox_a") && hint.len() > 10, "{refused}");
    ensure!(said.contains(says) || hint.contains(says), "{refused}");
    if says.contains("42501") {
        ensure!(
            hint.contains("GRANT SELECT (\"id\", \"relayed_at\"), UPDATE (\"relayed_at\")"),
            "{hint}"
        );
        let http = setting.clone().set("http.address", &address.to_string());
        let status = http.program.output(&["status"]).await?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(status.contains(&hint) && status.contains(said), "{status}");
    }
    ensure!(told.contains(says), "{says:?} is not in {told}");
    let bad: i64 = setting.ask(&unmarked("outbox_a")).await?;
    ensure!(bad == 300, "{bad} wait");
    // It is said once, not with each try.
    let lines = relay.log().lines().filter(|line| line.contains("outbox_a")).count();
    ensure!(lines <= 5, "{lines} lines: {}", relay.log());
    client.batch_execute(&repaired.replace("audit", &audit)).await?;
    let all = format!("SELECT ({}) = 0", unmarked("outbox_a"));
    setting.until("the marks once it is repaired", &all).await.with_context(|| relay.log())?;
    let is_well = async || Ok(!get(address, "/readyz").await?.body.contains("marks_refused"));
    wait_until("nothing to be refused any more", PATIENCE, is_well).await?;
    ensure!(relay.sessions() == 1, "{}", relay.log());
    ensure!(consumer.total() == count, "{} came: {:?}", consumer.total(), ids(&consumer.finish()));
    relay.drain(PATIENCE).await
}

#[tokio::test]
async fn a_table_that_takes_no_marks_stops_no_other() -> Result<()> {
    for some in TABLES.chunks(3) {
        let cases = some
            .iter()
            .map(async |case| one_bad_table(*case).await.with_context(|| format!("{case:?}")));
        try_join_all(cases).await?;
    }
    Ok(())
}

/// A lock on all of a table, as `ALTER TABLE` takes it, also while a session begins.
#[tokio::test]
async fn a_locked_table_is_nothing_to_the_others() -> Result<()> {
    let (setting, _) = two_tables("update").await?;
    let consumer = setting.consumer().await?;
    let relay = setting.run()?;
    relay.reaches("running", PATIENCE).await?;
    relay.sigstop()?;
    setting.sql("INSERT INTO outbox_a SELECT FROM generate_series(1, 50)").await?;
    let holder = setting.client().await?;
    holder.batch_execute("BEGIN; LOCK TABLE outbox_a IN ACCESS EXCLUSIVE MODE").await?;
    relay.sigcont()?;
    for _ in 0..100 {
        setting.sql("INSERT INTO outbox_b SELECT FROM generate_series(1, 10)").await?;
    }
    all_once(&consumer, 1_050, &relay).await?;
    let others = "SELECT count(*) = 0 FROM outbox_b WHERE relayed_at IS NULL";
    setting.until("the other table's marks", others).await.with_context(|| relay.log())?;
    setting.is_acknowledged(&relay).await?;
    holder.batch_execute("COMMIT").await?;
    setting.is_acknowledged(&relay).await?;
    let all = "SELECT count(*) = 0 FROM outbox_a WHERE relayed_at IS NULL";
    setting.until("its own marks", all).await.with_context(|| relay.log())?;
    ensure!(relay.sessions() == 1, "{}", relay.log());
    ensure!(consumer.total() == 1_050, "{} came", consumer.total());
    relay.drain(PATIENCE).await
}
