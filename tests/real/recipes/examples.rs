//! `examples/`: each producer and consumer, killed in the middle, with every event sent twice.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use harness::relay::Pgoutbox;

use super::made_once;
use super::shop::{Shop, example, python};

/// How a language's two programs are called.
struct Language {
    producer: (PathBuf, Vec<String>),
    consumer: (PathBuf, Vec<String>),
    env: Vec<(&'static str, String)>,
}

impl Language {
    fn scripts(interpreter: PathBuf, [producer, consumer]: [&str; 2]) -> Self {
        let script = |name: &str| vec![example(name).to_string_lossy().into_owned()];
        Self {
            producer: (interpreter.clone(), script(producer)),
            consumer: (interpreter, script(consumer)),
            env: Vec::new(),
        }
    }

    fn program(&self, shop: &Shop, (program, _): &(PathBuf, Vec<String>)) -> Result<Pgoutbox> {
        let bare = shop.program(program)?;
        Ok(self.env.iter().fold(bare, |program, (name, value)| program.env(name, value)))
    }
}

const ORDERS: i64 = 300;

async fn does_each_work_once(language: Language) -> Result<()> {
    let shop = Shop::new("[[declare.queues]]\nname = \"orders\"\n").await?;
    let relay = shop.setting.run()?;
    let arguments = |args: &[String]| -> Vec<String> { args.to_vec() };
    let produce = async |first: i64, count: i64| -> Result<()> {
        let program = language.program(&shop, &language.producer)?;
        let program = program.env("FIRST", first.to_string()).env("COUNT", count.to_string());
        let args = arguments(&language.producer.1);
        program.succeed(&args.iter().map(String::as_str).collect::<Vec<_>>()).await.map(drop)
    };
    let consume = || {
        let args = arguments(&language.consumer.1);
        let program = language.program(&shop, &language.consumer)?;
        program.spawn(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    produce(1, ORDERS).await?;
    let consumer = consume()?;
    shop.shipped(20, &[&consumer, &relay]).await?;
    consumer.kill9().await?;
    let consumer = consume()?;
    shop.shipped(ORDERS, &[&consumer, &relay]).await?;
    shop.setting.program.succeed(&["replay", "--all", "--rate", "100000"]).await?;
    // Comes behind all of them.
    produce(ORDERS + 1, 1).await?;
    shop.shipped(ORDERS + 1, &[&consumer, &relay]).await?;
    shop.in_order(ORDERS + 1).await?;
    let same = "SELECT count(*) FROM orders JOIN shipments ON order_id = id";
    assert_eq!(shop.setting.ask::<i64>(same).await?, ORDERS + 1, "one for each order");
    ensure!(consumer.is_running(), "{}", consumer.log());
    Ok(())
}

#[tokio::test]
async fn those_in_python() -> Result<()> {
    let python = tokio::task::spawn_blocking(python).await??;
    let scripts = ["python/producer.py", "python/consumer.py"];
    does_each_work_once(Language::scripts(python, scripts)).await
}

#[tokio::test]
async fn those_in_node() -> Result<()> {
    const PACKAGES: [&str; 2] = ["amqplib@2.3.1", "pg@8.23.1"];
    let folder = tokio::task::spawn_blocking(|| {
        made_once("examples-node", |folder| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
            npm.arg(folder).args(PACKAGES);
            npm
        })
    });
    let modules = folder.await??.join("node_modules");
    let scripts = ["node/producer.js", "node/consumer.js"];
    let mut language = Language::scripts("node".into(), scripts);
    language.env.push(("NODE_PATH", modules.to_string_lossy().into_owned()));
    does_each_work_once(language).await
}

/// With the jars of Debian's packages.
#[tokio::test]
async fn those_in_java() -> Result<()> {
    let jars = ["amqp-client", "slf4j-api", "postgresql"];
    let jars = jars.map(|name| format!("/usr/share/java/{name}.jar"));
    for jar in &jars {
        ensure!(Path::new(jar).exists(), "{jar} is missing: sh tests/setup.sh");
    }
    let mut language =
        Language::scripts("java".into(), ["java/Producer.java", "java/Consumer.java"]);
    for (_, args) in [&mut language.producer, &mut language.consumer] {
        args.splice(0..0, ["-cp".to_owned(), jars.join(":")]);
    }
    does_each_work_once(language).await
}

#[tokio::test]
async fn those_in_ruby() -> Result<()> {
    does_each_work_once(Language::scripts("ruby".into(), ["ruby/producer.rb", "ruby/consumer.rb"]))
        .await
}

/// `cargo test` builds examples where it runs all of them, not with `--test`.
fn built(names: [&str; 2]) -> Result<Language> {
    let folder = Path::new(env!("CARGO_BIN_EXE_pgoutbox")).parent().context("a folder")?;
    let programs = names.map(|name| folder.join("examples").join(name));
    if !programs.iter().all(|program| program.exists()) {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--locked"]).args(names.map(|name| format!("--example={name}")));
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let [producer, consumer] = programs.map(|program| (program, Vec::new()));
    Ok(Language { producer, consumer, env: Vec::new() })
}

#[tokio::test]
async fn those_in_rust() -> Result<()> {
    let built = || built(["producer", "consumer"]);
    does_each_work_once(tokio::task::spawn_blocking(built).await??).await
}

#[tokio::test]
async fn those_in_rust_with_sqlx() -> Result<()> {
    let built = || built(["sqlx-producer", "sqlx-consumer"]);
    does_each_work_once(tokio::task::spawn_blocking(built).await??).await
}
