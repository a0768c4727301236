//! Marks: in the row, by deleting it, and beside it.

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use harness::relay::Relay;

use super::{CLASSES, SWITCH, Swept, came, codes, is_told, switch_off};
use crate::setting::{PATIENCE, Setting};

const STATEMENTS: [(&str, &str); 3] =
    [("update", "mark: update"), ("delete", "mark: delete"), ("side_table", "mark: side table")];

/// What raises over a mark, in each mode.
const TRIGGER: &str = "
    CREATE FUNCTION swept() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.raise_if_bad(CASE TG_OP WHEN 'INSERT' THEN NEW.id ELSE OLD.id END, 'bad');
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END $$;";

struct World {
    mode: &'static str,
    setting: Setting,
    codes: Vec<String>,
}

fn table_of(code: &str) -> String {
    format!("all_{}", code.to_lowercase())
}

impl World {
    /// A table in which some rows raise, one in which none does, and for each class one in which
    /// all do.
    async fn new(mode: &'static str) -> Result<Self> {
        let mut setting = Setting::bare()
            .await?
            .set("audit.mode", mode)
            .set("audit.hold", "1s")
            .set("audit.give_up", "4m");
        let mut tables = vec!["rows".to_owned(), "good".to_owned()];
        tables.extend(CLASSES.map(table_of));
        let mut sql = SWITCH.to_owned() + TRIGGER;
        for (number, table) in tables.iter().enumerate() {
            setting = setting.set(&format!("tables.{number}.name"), table);
            sql += &format!(
                "CREATE TABLE {table} (id text PRIMARY KEY, topic text DEFAULT 't',
                     payload jsonb DEFAULT '1', relayed_at timestamptz);"
            );
            if mode != "side_table" {
                sql += &format!(
                    "CREATE TRIGGER swept BEFORE {mode} ON {table} FOR EACH ROW EXECUTE FUNCTION swept();"
                );
            }
        }
        setting.sql(&sql).await?;
        setting.init().await?;
        if mode == "side_table" {
            let trigger = "CREATE TRIGGER swept BEFORE INSERT ON pgoutbox.relayed FOR EACH ROW EXECUTE FUNCTION swept()";
            setting.sql(trigger).await?;
        }
        Ok(Self { mode, setting, codes: codes() })
    }

    /// Each bad row stands between good ones, in a transaction of its own.
    async fn insert(&self) -> Result<usize> {
        let client = self.setting.client().await?;
        let mut count = 0;
        for code in &self.codes {
            let sql = format!(
                "INSERT INTO rows (id) VALUES ('good-{code}-1'), ('bad-{code}'), ('good-{code}-2');
                 INSERT INTO good (id) VALUES ('good-{code}');"
            );
            client.batch_execute(&sql).await?;
            count += 4;
        }
        for code in CLASSES {
            let table = table_of(code);
            let sql = format!(
                "INSERT INTO {table} (id) SELECT 'bad-{code}-' || n FROM generate_series(1, 10) AS n;
                 INSERT INTO good (id) VALUES ('more-{code}');"
            );
            client.batch_execute(&sql).await?;
            count += 11;
        }
        Ok(count)
    }

    fn unmarked(&self, table: &str) -> String {
        match self.mode {
            "update" => format!("SELECT id FROM {table} WHERE relayed_at IS NULL"),
            "delete" => format!("SELECT id FROM {table}"),
            _ => format!(
                "SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM pgoutbox.relayed WHERE outbox = '{table}'::regclass)"
            ),
        }
    }

    async fn sweep(&self, statement: &'static str) -> Result<Swept> {
        let consumer = self.setting.consumer().await?;
        let relay = self.setting.run()?;
        let count = self.insert().await?;
        came(&consumer, count, &relay).await?;
        self.others_are_marked(&relay).await?;
        self.setting.is_acknowledged(&relay).await?;
        let swept = self.told(statement, &relay).await?;
        let raised: i64 = self.setting.ask("SELECT last_value FROM raised").await?;
        println!("sweep: {statement}: {raised} errors over {count} events");
        // To find out which it is takes some ten statements for each, and each is tried again.
        let cells = i64::try_from(self.codes.len() + CLASSES.len())?;
        ensure!(raised < 30 * cells, "{raised} tries");
        switch_off(&self.setting).await?;
        let mut all: Vec<String> = CLASSES.map(table_of).to_vec();
        all.push("rows".to_owned());
        let all = all.iter().map(|table| format!("NOT EXISTS ({})", self.unmarked(table)));
        let all = format!("SELECT {}", all.collect::<Vec<_>>().join(" AND "));
        self.setting.until("all marks", &all).await.with_context(|| relay.log())?;
        ensure!(relay.sessions() == 1 && relay.is_running(), "{}", relay.log());
        ensure!(consumer.total() == count, "{} came of {count}", consumer.total());
        relay.drain(PATIENCE).await?;
        Ok(swept)
    }

    async fn others_are_marked(&self, relay: &Relay) -> Result<()> {
        let waiting = format!(
            "SELECT NOT EXISTS ({}) AND NOT EXISTS (SELECT FROM ({}) AS waiting WHERE id LIKE 'good%')",
            self.unmarked("good"),
            self.unmarked("rows")
        );
        let marked = self.setting.until("the others' marks", &waiting).await;
        if marked.is_err() {
            let left = format!(
                "SELECT string_agg(id, ' ') FROM ({} UNION ALL {}) AS waiting WHERE id NOT LIKE 'bad%'",
                self.unmarked("good"),
                self.unmarked("rows")
            );
            let left: Option<String> = self.setting.ask(&left).await?;
            return marked.with_context(|| format!("{left:?} {}", relay.log()));
        }
        Ok(())
    }

    async fn told(&self, statement: &'static str, relay: &Relay) -> Result<Swept> {
        let mut swept = Swept::default();
        for code in &self.codes {
            is_told(relay, &[&format!("SQLSTATE {code}"), "public.rows"])?;
            swept.add(statement, "of one row: its mark waits, told by row", code);
        }
        for code in CLASSES {
            is_told(
                relay,
                &[&format!("SQLSTATE {code}"), &format!("no row of public.{}", table_of(code))],
            )?;
            swept.add(statement, "of all rows: the table's marks wait, told once", code);
        }
        Ok(swept)
    }
}

#[tokio::test]
async fn marks() -> Result<()> {
    let all = STATEMENTS.map(async |(mode, statement)| {
        let world = World::new(mode).await.context(mode)?;
        world.sweep(statement).await.context(mode)
    });
    for swept in try_join_all(all).await? {
        swept.print();
    }
    Ok(())
}
