//! Every SQLSTATE in every statement that the relay runs: raised by the database's own code, for one
//! row and for all of them. The relay never exits, never spins, other rows flow, a hint is there,
//! and once it is repaired all of it heals by itself.

mod loops;
mod marks;
mod records;
mod shown;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use harness::relay::Relay;

use crate::setting::{PATIENCE, Setting};

/// One code of each class of Postgres' appendix A, and two of none. Class 00 is not an error: RAISE
/// makes P0001 of it.
const CLASSES: [&str; 45] = [
    "01000", "02000", "03000", "08000", "09000", "0A000", "0B000", "0F000", "0L000", "0P000",
    "0Z000", "10608", "20000", "21000", "22000", "23000", "24000", "25000", "26000", "27000",
    "28000", "2B000", "2D000", "2F000", "34000", "38000", "39000", "3B000", "3D000", "3F000",
    "40000", "42000", "44000", "53000", "54000", "55000", "57000", "58000", "72000", "F0000",
    "HV000", "P0000", "XX000", "ZZ999", "00042",
];

/// Those, and all that the table of faults names.
fn codes() -> Vec<String> {
    let source = include_str!("../../src/error/table.rs");
    let is_code = |text: &&str| {
        let is_of_a_code = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        text.len() == 5 && text.bytes().all(is_of_a_code)
    };
    let named = source.split('"').filter(is_code);
    let all: BTreeSet<&str> = CLASSES.into_iter().chain(named).collect();
    assert!(all.len() > 100, "{all:?}");
    all.into_iter().map(str::to_owned).collect()
}

/// What a row's id tells of the error that is raised over it: `bad-22012-7`.
const SWITCH: &str = "
    CREATE TABLE switch (is_on boolean);
    INSERT INTO switch VALUES (true);
    CREATE SEQUENCE raised;
    CREATE FUNCTION raise_if_bad(id text, kind text) RETURNS boolean LANGUAGE plpgsql AS $$
    DECLARE code text := substring(id FROM '^' || kind || '-(.....)');
    BEGIN
        IF code IS NULL OR NOT EXISTS (SELECT FROM public.switch WHERE is_on) THEN
            RETURN true;
        END IF;
        PERFORM nextval('public.raised');
        RAISE EXCEPTION 'swept' USING ERRCODE = code;
    END $$;";

/// What became of each code in each statement.
#[derive(Default)]
struct Swept(BTreeMap<(&'static str, &'static str), Vec<String>>);

impl Swept {
    fn add(&mut self, statement: &'static str, outcome: &'static str, code: &str) {
        self.0.entry((statement, outcome)).or_default().push(code.to_owned());
    }

    /// The rows of the table that the sweep is.
    fn print(&self) {
        for ((statement, outcome), codes) in &self.0 {
            println!("sweep | {statement} | {outcome} | {} | {}", codes.len(), codes.join(" "));
        }
        let cells: usize = self.0.values().map(Vec::len).sum();
        println!("sweep: {cells} cells");
    }
}

/// A line of the log that is about this, and has a hint.
fn is_told(relay: &Relay, parts: &[&str]) -> Result<()> {
    let log = relay.log();
    let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    let line = line.with_context(|| format!("nothing is said of {parts:?}: {log}"))?;
    let hint = line.split("hint=").nth(1).unwrap_or_default();
    ensure!(hint.trim_matches('"').len() > 10, "no hint in {line}");
    Ok(())
}

async fn switch_off(setting: &Setting) -> Result<()> {
    setting.sql("UPDATE switch SET is_on = false").await
}

async fn came(consumer: &harness::consumer::Consumer, count: usize, relay: &Relay) -> Result<()> {
    let arrived = crate::bare::arrived(consumer, count).await;
    arrived.map(drop).with_context(|| relay.log()).with_context(|| format!("{PATIENCE:?}"))
}
