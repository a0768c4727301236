//! Statements that a session cannot do without, and those of a command: code after code, while the
//! relay goes on trying.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::http::get;
use harness::relay::Relay;
use harness::scenario::{Scenario, Settings};
use harness::wait_for;

use super::{CLASSES, Swept, codes};
use crate::setting::{PATIENCE, Setting};

/// `raise_if_armed('x')` raises what `armed` has for x.
pub(super) const ARMED: &str = "
    CREATE TABLE armed (kind text PRIMARY KEY, code text);
    CREATE FUNCTION raise_if_armed(kind text) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE code text := (SELECT armed.code FROM public.armed WHERE armed.kind = raise_if_armed.kind);
    BEGIN
        IF code IS NOT NULL THEN RAISE EXCEPTION 'swept' USING ERRCODE = code; END IF;
        RETURN true;
    END $$;
    CREATE FUNCTION swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_armed(TG_ARGV[0]);
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;";

pub(super) fn trigger(name: &str, events: &str, table: &str) -> String {
    format!(
        "CREATE TRIGGER swept_{name} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION swept('{name}');"
    )
}

pub(super) async fn arm(setting: &Setting, kind: &str, code: &str) -> Result<()> {
    setting.sql(&format!("DELETE FROM armed; INSERT INTO armed VALUES ('{kind}', '{code}')")).await
}

struct Loop {
    setting: Setting,
    consumer: Consumer,
    relay: Relay,
    address: SocketAddr,
    since: Instant,
}

const HASTY: Settings = &[("session.backoff_min", "10ms"), ("session.backoff_max", "60ms")];

async fn setting(sql: &str) -> Result<Setting> {
    let address = format!("127.0.0.1:{}", harness::free_port()?);
    Scenario::with(HASTY).set("http.address", &address).sql(ARMED).sql(sql).setting().await
}

impl Loop {
    async fn new(setting: Setting) -> Result<Self> {
        let consumer = setting.bound("good").await?;
        let relay = setting.run()?;
        let address = relay.http(PATIENCE).await?;
        Ok(Self { setting, consumer, relay, address, since: Instant::now() })
    }

    async fn insert(&self, topic: &str) -> Result<()> {
        let sql = format!("INSERT INTO outbox_messages (topic, payload) VALUES ('{topic}', '1')");
        self.setting.sql(&sql).await
    }

    /// The relay waits, says for what, and has a hint.
    async fn is_down(&self, code: &str) -> Result<()> {
        let what = format!("readyz to say {code}");
        wait_for(&what, PATIENCE, async || {
            let answer = get(self.address, "/readyz").await?;
            let told = answer.json()?;
            let reason = &told["reasons"][0];
            let said = reason["what"].as_str().unwrap_or_default();
            ensure!(answer.code == 503 && said.contains(&format!("SQLSTATE {code}")), "{told}");
            ensure!(reason["hint"].as_str().unwrap_or_default().len() > 10, "{told}");
            Ok(Some(()))
        })
        .await
        .with_context(|| self.relay.log())
    }

    /// The row of progress says so too, for `pgoutbox status`.
    async fn is_recorded(&self, code: &str) -> Result<()> {
        let sql = format!(
            "SELECT coalesce(bool_or(fault ->> 'what' LIKE '%SQLSTATE {code}%'), false) FROM pgoutbox.progress"
        );
        self.setting.until("the fault in the row of progress", &sql).await
    }

    async fn sweep(
        &self,
        swept: &mut Swept,
        kind: &str,
        statement: &'static str,
        codes: &[String],
    ) -> Result<()> {
        for code in codes {
            arm(&self.setting, kind, code).await?;
            self.is_down(code).await.with_context(|| format!("{statement}: {code}"))?;
            if kind != "progress" {
                self.is_recorded(code).await.with_context(|| format!("{statement}: {code}"))?;
            }
            ensure!(self.relay.is_running(), "{}", self.relay.log());
            swept.add(
                statement,
                "of all rows: the session ends, pauses grow, readyz says so",
                code,
            );
        }
        Ok(())
    }

    /// All comes once nothing is wrong any more, and it was not tried too often.
    async fn heals(self, count: usize) -> Result<()> {
        let metrics = get(self.address, "/metrics").await?.body;
        let sessions =
            metrics.lines().find_map(|line| line.strip_prefix("pgoutbox_sessions_total "));
        let sessions: u128 = sessions.context("no count of sessions")?.parse()?;
        let elapsed = self.since.elapsed();
        println!("sweep: {sessions} sessions in {elapsed:?}");
        ensure!(sessions <= 20 + elapsed.as_millis() / 30, "{sessions} in {elapsed:?}");
        self.setting.sql("DELETE FROM armed").await?;
        let distinct = self.consumer.wait_distinct(count, PATIENCE).await;
        distinct.with_context(|| self.relay.log())?;
        self.setting.is_acknowledged(&self.relay).await?;
        let ready = async || Ok((get(self.address, "/readyz").await?.code == 200).then_some(()));
        wait_for("it to be ready", PATIENCE, ready).await.with_context(|| self.relay.log())?;
        self.relay.drain(PATIENCE).await
    }
}

fn classes() -> Vec<String> {
    CLASSES.map(str::to_owned).to_vec()
}

async fn progress() -> Result<Swept> {
    let mut swept = Swept::default();
    let sql = trigger("progress", "INSERT OR UPDATE", "pgoutbox.progress");
    let world = Loop::new(setting(&sql).await?).await?;
    world.relay.reaches("running", PATIENCE).await?;
    arm(&world.setting, "progress", "P0001").await?;
    world.insert("good").await?;
    world.sweep(&mut swept, "progress", "progress: write", &codes()).await?;
    world.heals(1).await?;
    Ok(swept)
}

async fn park() -> Result<Swept> {
    let mut swept = Swept::default();
    let sql = trigger("park", "INSERT", "pgoutbox.parked");
    let world = Loop::new(setting(&sql).await?).await?;
    arm(&world.setting, "park", "P0001").await?;
    world.insert("nobody").await?;
    world.sweep(&mut swept, "park", "park: insert", &codes()).await?;
    world.insert("good").await?;
    world.heals(1).await?;
    Ok(swept)
}

async fn look() -> Result<Swept> {
    let mut swept = Swept::default();
    let setting = setting(
        "ALTER FUNCTION pgoutbox.parked_queue(name, text, text) RENAME TO parked_queue_of;
         CREATE FUNCTION pgoutbox.parked_queue(of_slot name, of_type text, of_id text)
            RETURNS TABLE (seq bigint) LANGUAGE plpgsql AS $$ BEGIN
            PERFORM public.raise_if_armed('look');
            RETURN QUERY SELECT * FROM pgoutbox.parked_queue_of(of_slot, of_type, of_id);
         END $$;",
    )
    .await?;
    setting.put_aside(1, "failed").await?;
    let holding = "UPDATE pgoutbox.parked SET is_holding = true, aggregate_id = 'x'";
    setting.sql(holding).await?;
    arm(&setting, "look", "P0001").await?;
    let world = Loop::new(setting).await?;
    world.insert("good").await?;
    world.sweep(&mut swept, "look", "park: look", &classes()).await?;
    world.heals(1).await?;
    Ok(swept)
}

/// A list of rows that no slot holds, step by step.
async fn catch_up() -> Result<Swept> {
    let mut swept = Swept::default();
    let sql = [
        trigger("list", "INSERT", "pgoutbox.catch_up_rows"),
        trigger("finish", "DELETE", "pgoutbox.catch_up"),
        "CREATE TRIGGER swept_begin BEFORE INSERT OR UPDATE ON pgoutbox.catch_up
            FOR EACH ROW WHEN (NEW.state = 'begun') EXECUTE FUNCTION swept('begin');
         ALTER TABLE pgoutbox.catch_up_rows RENAME TO listed;
         CREATE VIEW pgoutbox.catch_up_rows AS
            SELECT * FROM pgoutbox.listed WHERE public.raise_if_armed('fetch');
         INSERT INTO outbox_messages (topic, payload) SELECT 'good', '1' FROM generate_series(1, 5);
         SELECT pg_drop_replication_slot(current_database());"
            .to_owned(),
    ];
    let setting = setting(&sql.concat()).await?;
    arm(&setting, "begin", "P0001").await?;
    let world = Loop::new(setting).await?;
    for (kind, statement) in [
        ("begin", "catch-up: begin"),
        ("list", "catch-up: list"),
        ("fetch", "catch-up: read"),
        ("finish", "catch-up: finish"),
    ] {
        world.sweep(&mut swept, kind, statement, &classes()).await?;
    }
    world.heals(5).await?;
    Ok(swept)
}

#[tokio::test]
async fn what_a_session_cannot_do_without() -> Result<()> {
    let (progress, park) = tokio::try_join!(progress(), park())?;
    progress.print();
    park.print();
    Ok(())
}

#[tokio::test]
async fn what_a_session_looks_at() -> Result<()> {
    look().await?.print();
    Ok(())
}

#[tokio::test]
async fn what_a_catch_up_does() -> Result<()> {
    catch_up().await?.print();
    Ok(())
}

/// What a command does, with what it needs to be done again.
const COMMANDS: [(&str, &str, &[&str]); 4] = [
    ("pause", "command: pause", &["pause"]),
    ("resume", "command: resume", &["resume"]),
    ("retry", "command: retry", &["parked", "retry", "--all"]),
    ("discard", "command: discard", &["parked", "discard", "--all", "--yes"]),
];

#[tokio::test]
async fn what_an_operator_does() -> Result<()> {
    let sql = [
        trigger("pause", "INSERT", "pgoutbox.pause"),
        trigger("resume", "DELETE", "pgoutbox.pause"),
        "CREATE TRIGGER swept_retry BEFORE UPDATE ON pgoutbox.parked
            FOR EACH ROW WHEN (NEW.state = 'parked') EXECUTE FUNCTION swept('retry');
         CREATE TRIGGER swept_discard BEFORE UPDATE ON pgoutbox.parked
            FOR EACH ROW WHEN (NEW.state = 'discarded') EXECUTE FUNCTION swept('discard');"
            .to_owned(),
    ];
    let setting = setting(&sql.concat()).await?;
    setting.put_aside(1, "parked").await?;
    let mut swept = Swept::default();
    for (kind, statement, args) in COMMANDS {
        for code in classes() {
            arm(&setting, kind, &code).await?;
            let output = setting.program.output(args).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let code_of_exit = output.status.code();
            ensure!(matches!(code_of_exit, Some(1 | 69)), "{args:?} {code}: {output:?}");
            ensure!(said.contains(&format!("SQLSTATE {code}")), "{args:?} {code}: {said}");
            let hint = said.split("hint:").nth(1).unwrap_or_default();
            ensure!(hint.trim().len() > 10, "{args:?} {code}: {said}");
            swept.add(statement, "it fails, says why, and has a hint", &code);
        }
        setting.sql("DELETE FROM armed").await?;
        setting.program.succeed(args).await?;
    }
    swept.print();
    Ok(())
}
