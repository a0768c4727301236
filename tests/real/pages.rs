//! Each command and statement of the manual does what it is there for.
//!
//! A block whose fence says `norun` is not run: it wants root, Docker, Kubernetes, a registry or an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use harness::consumer::Consumer;
use harness::events::event;
use harness::wait_until;

use crate::bare::uuid;
use crate::setting::{PATIENCE, Setting};

/// A fenced block of a page.
struct Block {
    page: String,
    line: usize,
    info: String,
    text: String,
}

impl Block {
    fn language(&self) -> &str {
        self.info.split(' ').next().unwrap_or_default()
    }

    fn is_run(&self) -> bool {
        !self.info.contains(" norun")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = vec![root().join("README.md")];
    for entry in std::fs::read_dir(root().join("docs"))? {
        pages.push(entry?.path());
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    Ok(pages)
}

fn blocks() -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for path in pages()? {
        let page = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let mut open: Option<Block> = None;
        for (number, line) in std::fs::read_to_string(&path)?.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    let (page, info) = (page.clone(), info.to_owned());
                    open = Some(Block { page, line: number + 1, info, text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text.extend([line, "\n"]),
                (None, None) => {}
            }
        }
        ensure!(open.is_none(), "{page}: a block is not closed");
    }
    Ok(blocks)
}

/// What the pages call by a name that is nobody's: the servers, and one event of each kind.
struct Stage {
    setting: Setting,
    folder: tempfile::TempDir,
    /// Takes what is replayed or retried.
    _consumer: Consumer,
}

impl Stage {
    /// One event that is delivered, and two that no queue took.
    async fn prepare() -> Result<Self> {
        let mut setting = Setting::shared().await?;
        for name in ["PGOUTBOX_PARKING__BACKOFF_MAX", "PGOUTBOX_PARKING__BACKOFF_MIN"] {
            setting.env(name, "1h");
        }
        setting
            .sql(
                "CREATE TABLE orders (id int, paid bool);
                 SELECT setval(pg_get_serial_sequence('pgoutbox.parked', 'seq'), 6);",
            )
            .await?;
        // Its functions, for what the pages emit.
        setting.clone().set("messages.0.prefix", "orders").init().await?;
        let relay = setting.run()?;
        for number in [7, 8] {
            setting.insert(event(number, "orders.paid").of(&number.to_string())).await?;
            wait_until("the event is parked", PATIENCE, async || {
                Ok(setting.ask::<i64>("SELECT count(*) FROM pgoutbox.parked").await?
                    == i64::from(number - 6))
            })
            .await?;
        }
        let consumer = setting.consumer().await?;
        setting.insert(event(9, "orders.paid").of(&9.to_string())).await?;
        consumer.wait_distinct(1, PATIENCE).await?;
        relay.drain(PATIENCE).await?;
        let stage = Self { setting, folder: tempfile::tempdir()?, _consumer: consumer };
        stage.wrap()?;
        Ok(stage)
    }

    /// `pgoutbox` of the PATH: `run` is asked to stop as soon as it is ready.
    fn wrap(&self) -> Result<()> {
        let path = self.folder.path().join("pgoutbox");
        std::fs::write(
            &path,
            format!(
                "#!/bin/sh\n\
                 [ \"$1\" = run ] || exec {binary} \"$@\"\n\
                 mkfifo log.$$\n\
                 {binary} \"$@\" 2> log.$$ & pid=$!\n\
                 while read -r line; do\n\
                   case $line in *' running '*) kill -TERM $pid;; esac\n\
                 done < log.$$\n\
                 wait $pid\n",
                binary = env!("CARGO_BIN_EXE_pgoutbox"),
            ),
        )?;
        Ok(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?)
    }

    fn text(&self, block: &Block) -> String {
        let event = if block.page == "README.md" { 9 } else { 8 };
        let secrets = self.folder.path().to_string_lossy();
        block
            .text
            .replace("postgres://owner:secret@db/app", &self.setting.database_url)
            .replace("amqp://user:secret@mq", &self.setting.amqp_url)
            .replace("--id ID", &format!("--id {}", uuid(event)))
            .replace("/run/secrets", &secrets)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().display()))
            .env("DATABASE_URL", &self.setting.database_url)
            .env("AMQP_URL", &self.setting.amqp_url)
            .env("PGOUTBOX_POSTGRES__SLOT", &self.setting.database)
            .env("PGOUTBOX_HTTP__ADDRESS", "off");
        command
    }

    fn run(&self, block: &Block) -> Result<()> {
        let text = self.text(block);
        let mut command = match block.language() {
            "sh" => {
                let mut command = self.command("sh");
                command.args(["-euc", &text]);
                command
            }
            "sql" => {
                let mut command = self.command("psql");
                command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", &text]);
                command.arg(&self.setting.database_url);
                command
            }
            "toml" => {
                let file = self.folder.path().join("block.toml");
                std::fs::write(self.folder.path().join("otlp-headers"), "api-key=x")?;
                // A part of a table is of one that the page has named before.
                let table = "[[tables]]\nname = \"public.outbox_messages\"\n";
                let is_part = text.starts_with("[tables.");
                std::fs::write(
                    &file,
                    if is_part { format!("{table}{text}") } else { text.clone() },
                )?;
                let mut command = self.command("pgoutbox");
                command.args(["config", "--config"]).arg(file);
                command
            }
            other => anyhow::bail!("no test runs a block of {other:?}"),
        };
        let output = command.stdin(Stdio::null()).output()?;
        ensure!(
            output.status.success(),
            "{text}\n{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

#[tokio::test]
async fn each_block_of_the_manual_runs() -> Result<()> {
    let stage = Stage::prepare().await?;
    let mut ran = BTreeMap::<String, usize>::new();
    let mut blocks = blocks()?;
    blocks.retain(|block| block.language() != "text" && block.is_run());
    // What begins a relay comes first; all others have one beside them.
    blocks.sort_by_key(|block| !block.text.contains("\npgoutbox run "));
    let mut relay = None;
    for block in blocks {
        if relay.is_none() && !block.text.contains("\npgoutbox run ") {
            let started = stage.setting.run()?;
            started.reaches("running", PATIENCE).await?;
            relay = Some(started);
        }
        stage.run(&block).with_context(|| format!("{}:{}", block.page, block.line))?;
        *ran.entry(block.language().to_owned()).or_default() += 1;
    }
    ensure!(["sh", "sql", "toml"].iter().all(|language| ran.contains_key(*language)), "{ran:?}");
    Ok(())
}

/// The words after `pgoutbox` of each command that a text names: whether it stands by itself, not in
/// a sentence, its verbs, and its options.
fn commands(text: &str) -> Vec<(bool, Vec<&str>, Vec<&str>)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("pgoutbox ") {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "-_/.".contains(c)) {
            continue;
        }
        let is_quoted = before.is_none_or(|c| "`\"\n".contains(c));
        let rest =
            text[start + "pgoutbox ".len()..].split(['`', '\n', '\\', '"', ';', '|', '{']).next();
        let words = rest.unwrap_or_default().split("  -- ").next();
        let words: Vec<&str> = words.unwrap_or_default().split([' ', ',', ':', ')', '.']).collect();
        let is_verb =
            |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase()) && !word.is_empty();
        let verbs = words.iter().take_while(is_verb).copied().collect();
        let options = words.into_iter().filter(|word| word.starts_with("--")).collect();
        found.push((is_quoted, verbs, options));
    }
    found
}

/// What `--help` knows of each verb.
fn known() -> Result<BTreeMap<String, String>> {
    let mut known = BTreeMap::new();
    let parked = ["list", "show", "retry", "discard"].map(|verb| format!("parked {verb}"));
    let verbs = "init check run status event prune parked pause resume replay verify reshard schema size config \
                 uninstall health completions man";
    for verb in verbs.split_whitespace().map(str::to_owned).chain(parked) {
        let mut help = Command::new(env!("CARGO_BIN_EXE_pgoutbox"));
        let output = help.args(verb.split(' ')).arg("--help").output()?;
        ensure!(output.status.success(), "{verb}: {output:?}");
        known.insert(verb, String::from_utf8(output.stdout)?);
    }
    let parked = known.iter().filter(|(verb, _)| verb.starts_with("parked"));
    let parked = parked.map(|(_, help)| help.as_str()).collect::<String>();
    known.insert("parked".to_owned(), parked);
    Ok(known)
}

/// A command that a page, a hint or an SQL file gives is one that there is, with each of its options.
#[test]
fn each_command_that_is_named_is_there() -> Result<()> {
    let known = known()?;
    let mut texts = pages()?;
    let mut folders = vec![root().join("src"), root().join("sql")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { texts.push(path) }
        }
    }
    let (mut wrong, mut seen) = (BTreeSet::new(), 0);
    for path in texts {
        let text = std::fs::read_to_string(&path)?;
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (is_quoted, verbs, options) in commands(text) {
            let two = verbs.iter().take(2).copied().collect::<Vec<_>>().join(" ");
            let verb = verbs.first().copied().unwrap_or_default();
            let Some(help) = known.get(&two).or_else(|| known.get(verb)) else {
                // A sentence about the program, not a command.
                if is_quoted && !options.is_empty() {
                    wrong.insert(format!("{}: pgoutbox {two} {options:?}", path.display()));
                }
                continue;
            };
            seen += 1;
            for option in options {
                let option = option.trim_end_matches(['\'', ']', '…']);
                let option = option.split('=').next().unwrap_or_default();
                if !help.contains(option) {
                    wrong.insert(format!("{}: pgoutbox {two} {option}", path.display()));
                }
            }
        }
    }
    ensure!(seen > 100, "only {seen} commands were found");
    ensure!(wrong.is_empty(), "no such command or option: {wrong:#?}");
    Ok(())
}
