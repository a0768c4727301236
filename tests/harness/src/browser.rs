//! A headless Chromium, spoken to in the DevTools protocol over a pair of pipes: messages are JSON, parted by NUL.

#![allow(clippy::indexing_slicing, reason = "of JSON, where what is missing is null")]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::process::Process;
use crate::reaper::{self, Kind};
use crate::wait::wait_for;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Inbox {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    /// What the page complained of: exceptions, and what its policy forbade.
    complaints: Vec<String>,
}

pub struct Browser {
    commands: Mutex<File>,
    inbox: Arc<Mutex<Inbox>>,
    _process: Process,
}

/// A page of its own.
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Browser {
    pub async fn start() -> Result<Browser> {
        let program = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
            Command::new("sh")
                .args(["-c", &format!("command -v {name} >/dev/null")])
                .status()
                .is_ok_and(|s| s.success())
        });
        let program = program.context("no chromium: sh tests/setup.sh installs it")?;
        let home = reaper::directory("browser")?;
        let [to, from] = ["to", "from"].map(|name| home.join(name));
        let made = Command::new("mkfifo").args([&to, &from]).status()?;
        anyhow::ensure!(made.success(), "mkfifo: {made}");
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$@\" 3<\"$0/to\" 4>\"$0/from\""])
            .arg(&home)
            .args([
                program,
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
            ])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args([
                "--disable-component-update",
                "--disable-extensions",
                "--no-proxy-server",
                "--hide-scrollbars",
            ])
            .arg(format!("--user-data-dir={}", home.join("profile").display()))
            .env("HOME", &home);
        let process = Process::spawn(command, Kind::Group, &home.join("log"))?;
        // Each end waits for the other, in this order.
        let (commands, answers) = tokio::task::spawn_blocking(move || {
            Ok::<_, std::io::Error>((File::options().write(true).open(to)?, File::open(from)?))
        })
        .await??;
        let inbox = Arc::<Mutex<Inbox>>::default();
        let sorted = inbox.clone();
        std::thread::spawn(move || sort(answers, &sorted));
        Ok(Browser { commands: Mutex::new(commands), inbox, _process: process })
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value> {
        let (tell, told) = oneshot::channel();
        let mut message = {
            let mut inbox = self.inbox();
            inbox.next += 1;
            let id = inbox.next;
            inbox.waiting.insert(id, tell);
            json!({"id": id, "method": method, "params": params})
        };
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(format!("{message}\0").as_bytes())?;
        let answer = tokio::time::timeout(PATIENCE, told).await.context(method.to_owned())?;
        let answer = answer.with_context(|| format!("{method}: the browser has ended"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].clone())
    }

    /// A page of this width, at that address.
    pub async fn open(&self, url: &str, width: u32, is_dark: bool) -> Result<Page<'_>> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"})).await?;
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", target).await?;
        let session = session["sessionId"].as_str().context("a session")?.to_owned();
        let page = Page { browser: self, session };
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({})).await?;
        }
        let metrics =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        page.call("Emulation.setDeviceMetricsOverride", metrics).await?;
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        page.call("Emulation.setEmulatedMedia", media).await?;
        page.call("Page.navigate", json!({"url": url})).await?;
        page.until("document.readyState === 'complete' && location.href !== 'about:blank'").await?;
        Ok(page)
    }

    /// What pages complained of so far.
    pub fn complaints(&self) -> Vec<String> {
        self.inbox().complaints.clone()
    }
}

impl Page<'_> {
    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.browser.call(Some(&self.session), method, params).await
    }

    /// The value of an expression of JavaScript; a promise is waited for.
    pub async fn ask(&self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", asked).await?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until it is true.
    pub async fn until(&self, expression: &str) -> Result<()> {
        wait_for(expression, PATIENCE, async || {
            Ok((self.ask(expression).await? == true).then_some(()))
        })
        .await
    }

    /// The text of the element with this id, as it is seen.
    pub async fn text(&self, id: &str) -> Result<String> {
        let text = self.ask(&format!("document.getElementById('{id}').innerText")).await?;
        Ok(text.as_str().with_context(|| format!("no text of {id}"))?.to_owned())
    }

    pub async fn click(&self, id: &str) -> Result<()> {
        self.ask(&format!("document.getElementById('{id}').click()")).await.map(drop)
    }

    pub async fn write(&self, id: &str, text: &str) -> Result<()> {
        let value = Value::from(text);
        self.ask(&format!("document.getElementById('{id}').value = {value}")).await.map(drop)
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: &str) -> Result<()> {
        let code = if key == "Enter" { 13 } else { 0 };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// All of the page, as PNG.
    pub async fn screenshot(&self, path: &Path) -> Result<()> {
        let wanted = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", wanted).await?;
        let shot = BASE64_STANDARD.decode(shot["data"].as_str().context("data")?)?;
        std::fs::write(path, shot).with_context(|| path.display().to_string())
    }
}

/// Hands each answer to who waits for it, until the browser ends.
fn sort(answers: File, inbox: &Mutex<Inbox>) {
    for message in BufReader::new(answers).split(0) {
        let Ok(message) = message else { break };
        let Ok(message) = serde_json::from_slice::<Value>(&message) else { continue };
        let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = message["id"].as_u64().and_then(|id| inbox.waiting.remove(&id)) {
            let _ = waiting.send(message);
            continue;
        }
        let is_error = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => message["params"]["entry"]["source"] == "security",
            _ => false,
        };
        if is_error {
            inbox.complaints.push(message["params"].to_string());
        }
    }
    inbox.lock().unwrap_or_else(PoisonError::into_inner).waiting.clear();
}
