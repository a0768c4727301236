//! `--json`: what is printed is what `docs/schemas` says, in each state that a command meets. A key that comes or goes
//! is a change of both.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::events::event;
use harness::npm;
use harness::scenario::{QUICK, Scenario};
use serde_json::{Value, json};

use crate::setting::{PATIENCE, Setting, uuid};

/// The library that judges.
const AJV: &str = "ajv@8.17.1";

/// Reads pairs of a schema and what is to fit it, and prints what is wrong.
const JUDGE: &str = "
const Ajv = require('ajv');
const ajv = new Ajv({ allErrors: true, allowUnionTypes: true });
const wrong = [];
for (const [name, schema, data] of JSON.parse(require('fs').readFileSync(0, 'utf8'))) {
  if (!ajv.validate(schema, data)) wrong.push(name + ': ' + ajv.errorsText(null, { separator: '\\n  ' }) + ' ' + JSON.stringify(ajv.errors.map((one) => one.params)));
}
process.stdout.write(wrong.join('\\n'));";

fn schema(name: &str) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/schemas/{name}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(&path)?)?)
}

/// What was printed, by the name of its schema.
#[derive(Default)]
struct Answers(Vec<Value>, BTreeMap<String, usize>);

impl Answers {
    async fn ask(&mut self, setting: &Setting, name: &str, command: &[&str]) -> Result<()> {
        let command = [command, &["--json"]].concat();
        let output = setting.program.output(&command).await?;
        let told: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{command:?}: {output:?}"))?;
        *self.1.entry(name.to_owned()).or_default() += 1;
        self.0.push(json!([format!("{command:?}"), schema(name)?, told]));
        Ok(())
    }

    /// Each command, as it is now.
    async fn ask_all(&mut self, setting: &Setting) -> Result<()> {
        let id = uuid(1);
        for (name, command) in [
            ("status", &["status"][..]),
            ("verify", &["verify", "--wait", "0s"]),
            ("check", &["check"]),
            ("parked-list", &["parked", "list", "--state", "all"]),
            ("event", &["event", "--since", "1h"]),
            ("event", &["event", "--wait", "0s", &id]),
        ] {
            self.ask(setting, name, command).await?;
        }
        Ok(())
    }

    fn judge(self) -> Result<()> {
        let folder = npm::installed(Path::new(env!("CARGO_TARGET_TMPDIR")), AJV)?;
        let mut node = Command::new("node")
            .args(["-e", JUDGE])
            .env("NODE_PATH", folder.join("node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        node.stdin
            .take()
            .context("an input")?
            .write_all(Value::from(self.0).to_string().as_bytes())?;
        let output = node.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
        let wrong = String::from_utf8(output.stdout)?;
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    }
}

#[tokio::test]
async fn json_is_as_its_schema_says() -> Result<()> {
    let mut answers = Answers::default();
    let setting = Scenario::with(QUICK).set("http.address", "127.0.0.1:0").setting().await?;
    // Nobody runs, and an event waits.
    setting.insert(event(1, "good").of("a")).await?;
    answers.ask_all(&setting).await?;
    // Delivered, parked, behind it, and paused.
    let _consumer = setting.bound("good").await?;
    let relay = setting.run()?;
    setting.insert(event(2, "bad").of("b")).await?;
    setting.insert(event(3, "bad").of("b")).await?;
    setting.parking_is(&relay, "2 parked, 3 queued").await?;
    // As somebody who finds it at its port.
    let address = relay.http(PATIENCE).await?.to_string();
    let beside = setting.clone().set("http.address", &address);
    answers.ask_all(&beside).await?;
    answers.ask(&beside, "event", &["event", &uuid(2)]).await?;
    setting.program.succeed(&["pause", "--note", "why"]).await?;
    relay.reaches("paused", PATIENCE).await?;
    answers.ask_all(&beside).await?;
    setting.program.succeed(&["parked", "discard", "--id", &uuid(2), "--yes"]).await?;
    answers.ask_all(&beside).await?;
    // What only counts.
    let size = ["size", "--events-per-second", "2000", "--bytes", "500"];
    answers.ask(&setting, "size", &size).await?;
    let away = setting.clone().set("postgres.url", "postgres://postgres@127.0.0.1:1/x");
    for command in [&["status"][..], &["verify"], &["event", "7"], &["parked", "list"]] {
        answers.ask(&away, "fault", command).await?;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas");
    let schemas = std::fs::read_dir(folder)?.count();
    ensure!(answers.1.len() == schemas, "some schema is of no command: {:?}", answers.1);
    answers.judge()
}
