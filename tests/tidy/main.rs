//! What can be kept by a test is kept by a test.

#![allow(
    missing_docs,
    clippy::panic,
    clippy::expect_used,
    reason = "a test binary: it fails by panicking"
)]

mod circles;
mod licences;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders and files that know no socket, clock or task.
const PURE: [&str; 11] = [
    "src/core/",
    "src/error/",
    "src/rabbitmq/publisher/frames.rs",
    "src/rabbitmq/publisher/tags.rs",
    "src/rabbitmq/stream/frames.rs",
    "src/rabbitmq/stream/confirms.rs",
    "src/postgres/sql/mod.rs",
    "src/otlp/span.rs",
    "src/observe/metrics/encode.rs",
    "src/observe/http/access.rs",
    "src/observe/http/ready.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).expect(folder) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let folder = path.strip_prefix(root()).expect("below the root").to_owned();
            found.extend(files(folder.to_str().expect("UTF-8"), extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Code without its tests and comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn pure_files_know_no_socket_clock_or_task() {
    let mut seen = 0;
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        let path = path.to_string_lossy().replace('\\', "/");
        if !PURE.iter().any(|pure| path.contains(pure)) {
            continue;
        }
        seen += 1;
        let code = code(&text);
        for banned in [
            "async ",
            ".await",
            "tokio::",
            "tokio_postgres",
            "lapin::",
            "pgwire",
            "Instant",
            "SystemTime",
            "::now(",
        ] {
            assert!(!code.contains(banned), "{path} is pure and holds `{banned}`");
        }
    }
    assert!(seen > PURE.len(), "{seen} files are pure: have they moved?");
}

#[test]
fn each_client_library_lives_in_one_place() {
    let places = [
        ("lapin::", &["src/rabbitmq/"][..]),
        ("async_rs", &["src/rabbitmq/publisher/runtime.rs"]),
        ("pgwire_replication", &["src/wal/"]),
        ("opentelemetry_proto", &["src/otlp/"]),
    ];
    for (library, homes) in places {
        for path in files("src", "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            let path = path.to_string_lossy().replace('\\', "/");
            let is_home = homes.iter().any(|home| path.contains(home));
            assert!(is_home || !code(&text).contains(library), "{path} knows {library}");
        }
    }
}

/// What may know what: the rooms of `src/` by floor, the lowest first. A room imports from its own
/// floor's room and from lower floors only.
const FLOORS: [&[&str]; 14] = [
    &["backoff", "error", "output", "shutdown", "log_throttle", "text", "within"],
    &["gauge", "net"],
    &["config"],
    &["tls"],
    &["core"],
    &["otlp", "postgres", "rabbitmq"],
    &["wal"],
    &["slot"],
    &["board", "operator"],
    &["upkeep"],
    &["session"],
    &["observe", "outbox"],
    &["embed"],
    &["cli"],
];

#[test]
fn no_room_imports_from_a_higher_floor() {
    let floor = |room: &str| FLOORS.iter().position(|floor| floor.contains(&room));
    let root = root().join("src");
    for path in files("src", "rs") {
        let place = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        let room = place.split(['/', '\\', '.']).next().expect("a room").to_owned();
        if ["lib", "main", "testing"].contains(&&*room) || place.contains("tests") {
            continue;
        }
        let own = floor(&room).unwrap_or_else(|| panic!("{room} has no floor"));
        let text = code(&fs::read_to_string(&path).expect("readable"));
        for import in text.split("crate::").skip(1) {
            let end = import.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let other = import.get(..end.unwrap_or(import.len())).unwrap_or_default();
            let Some(theirs) = floor(other) else { panic!("{place}: {other} has no floor") };
            assert!(
                other == room || theirs < own,
                "{place} knows crate::{other}, which stands higher"
            );
        }
    }
}

/// A fault says as data what it is of. Words change with a server's language, and hold names and
/// values of users: a table may well be called "42501".
#[test]
fn no_text_of_a_fault_is_searched() {
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        let joined: String = code(&text).split_whitespace().collect();
        for banned in [
            "what.contains(",
            "what.starts_with(",
            "what.ends_with(",
            "what.find(",
            "hint.contains(",
        ] {
            assert!(
                !joined.contains(banned),
                "{} searches a fault's text: `{banned}`",
                path.display()
            );
        }
    }
}

/// A hint is read behind a command that has ended, too: that a relay tries again is said by what says when.
#[test]
fn no_hint_says_what_is_done_next() {
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        for said in literals(&code(&text)) {
            for banned in
                ["it is tried again", "they are tried again", "connects again", "at the next pass"]
            {
                assert!(!said.contains(banned), "{}: {said:?}", path.display());
            }
        }
    }
}

/// The `replay --… …` that texts and pages advise are taken by a relay with default settings: what is refused there helps nobody.
#[test]
fn each_replay_that_is_advised_is_taken() {
    let mut advised: BTreeSet<String> = BTreeSet::new();
    for path in files("src", "rs").into_iter().chain(pages()) {
        let text = fs::read_to_string(&path).expect("readable");
        for rest in text.split("pgoutbox replay --").skip(1) {
            let mut words = rest.split_whitespace();
            let flag = words.next().unwrap_or_default();
            if words.next().is_some_and(|value| value.starts_with('…')) {
                advised.insert(format!("--{flag}"));
            }
        }
    }
    assert!(advised.contains("--relayed-since"), "{advised:?}");
    for flag in advised {
        let mut program = Command::new(env!("CARGO_BIN_EXE_pgoutbox"));
        // Nobody listens there: what is wrong with the arguments is said before.
        program.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
        let output = program.args(["replay", "--dry-run", &flag, "1h"]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(69), "{flag}: {said}");
    }
}

/// The first sentence of the comment that a file begins with.
fn first_sentence(sql: &str) -> String {
    let comment = sql.lines().map_while(|line| line.strip_prefix("--"));
    let text = comment.take_while(|line| !line.starts_with("   ")).map(str::trim);
    let text = text.collect::<Vec<_>>().join(" ");
    let end = text.find(". ").map_or(text.trim_end_matches('.').len(), |end| end);
    format!("{}.", &text[..end])
}

/// The constants of the SQL files, by path: `mark/update.sql` is `MARK_UPDATE`, `park/park.sql` is `PARK`.
fn sql_constants() -> Vec<(String, String, String)> {
    let constants = files("sql", "sql").into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("readable");
        let name = path.strip_prefix(root().join("sql")).expect("below sql");
        let name = name.to_str().expect("UTF-8");
        let (folder, file) = name.trim_end_matches(".sql").split_once('/').expect("a folder");
        let constant = if folder == file { folder.to_owned() } else { format!("{folder}_{file}") };
        (constant.to_uppercase(), name.to_owned(), first_sentence(&text))
    });
    constants.collect()
}

/// The list of them in the code is made from the folder.
#[test]
fn the_list_of_sql_files_is_that_of_the_folder() {
    const LIST: &str = "src/postgres/sql/files.rs";
    let is = read(LIST);
    let (head, _) = is.split_once("\nfiles! {\n").expect("the list");
    let lines = sql_constants()
        .into_iter()
        .map(|(name, file, about)| format!("    {name} = {file:?}, {about:?};\n"));
    let wanted = format!("{head}\nfiles! {{\n{}}}\n", lines.collect::<String>());
    if std::env::var_os("PGOUTBOX_WRITE").is_some() {
        fs::write(root().join(LIST), &wanted).expect("writable");
    }
    let line = is.lines().zip(wanted.lines()).find(|(is, wanted)| is != wanted);
    assert!(
        is == wanted,
        "{LIST} is not as the folder has it, from {line:?} on: PGOUTBOX_WRITE=1 writes it"
    );
}

#[test]
fn each_sql_file_is_used() {
    let code: Vec<String> = files("src", "rs")
        .iter()
        .filter(|path| !path.ends_with("sql/files.rs"))
        .map(|path| fs::read_to_string(path).expect("readable"))
        .collect();
    for (constant, file, _) in sql_constants() {
        let is_name = |rest: &str| rest.starts_with(|c: char| c == '_' || c.is_alphanumeric());
        let is_in = |text: &String| {
            let uses = format!("sql::{constant}");
            text.split(&uses).skip(1).any(|rest| !is_name(rest))
        };
        assert!(code.iter().any(is_in), "sql/{file} is used by nothing");
    }
}

#[test]
fn sql_is_ascii() {
    for path in files("sql", "sql") {
        let text = fs::read_to_string(&path).expect("readable");
        for (number, line) in text.lines().enumerate() {
            assert!(line.is_ascii(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// What stands between two marks of a page.
fn between(page: &str, start: &str, end: &str) -> String {
    let text = read(page);
    let table = text.split(start).nth(1).and_then(|rest| rest.split(end).next());
    table.expect("the page has the markers").trim().to_owned()
}

#[test]
fn the_docs_have_every_setting_as_it_is() {
    assert_eq!(
        between(
            "docs/settings.md",
            "<!-- settings: `pgoutbox config --docs` -->\n",
            "<!-- end of settings -->"
        ),
        pgoutbox::testing::settings_markdown().trim(),
        "put the output of `pgoutbox config --docs` between the markers"
    );
}

/// Alerts are built on the names of findings: each is in the docs and made somewhere, and none is
/// told of that is gone.
#[test]
fn the_docs_have_the_name_of_every_finding() {
    let section = read("docs/check.md");
    let sources: Vec<_> = files("src", "rs")
        .iter()
        .filter(|path| !path.ends_with("slot/finding.rs"))
        .map(|path| code(&fs::read_to_string(path).expect("readable")))
        .collect();
    for name in pgoutbox::testing::slot::NAMES {
        assert!(section.contains(&format!("`{name}`")), "docs/check.md has no {name}");
        let quoted = format!("\"{name}\"");
        assert!(sources.iter().any(|text| text.contains(&quoted)), "nothing makes {name}");
    }
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let is_name =
            name.contains('-') && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(
            !is_name || pgoutbox::testing::slot::NAMES.contains(&name),
            "{name} is no finding's name"
        );
    }
}

/// The pages that people read, from the root.
fn pages() -> Vec<PathBuf> {
    let single = ["README.md", "CHANGELOG.md", "tests/README.md"];
    let mut pages: Vec<_> = single.iter().map(|page| root().join(page)).collect();
    pages.extend(files("docs", "md"));
    pages
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_', ' '].contains(c));
    kept.collect::<String>().trim().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let parts = text.split("```").step_by(2);
    let headings = parts.flat_map(str::lines).filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn each_link_of_the_docs_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let there = fs::read(&target)
                .unwrap_or_else(|error| panic!("{}: {link}: {error}", page.display()));
            assert!(
                place.is_empty() || anchors(&String::from_utf8_lossy(&there)).contains(place),
                "{}: {link} has no such heading",
                page.display()
            );
        }
    }
}

/// An operator searches the runbook for what `/readyz` says.
#[test]
fn the_runbook_has_every_code_of_readyz() {
    let (source, runbook) = (read("src/observe/http/ready.rs"), read("docs/runbook.md"));
    let joined: String = code(&source).split_whitespace().collect();
    let codes: BTreeSet<_> =
        joined.split("Reason::new(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(codes.len() > 10, "{codes:?}");
    for code in codes {
        assert!(
            runbook.contains(&format!(
                "
### `{code}`
"
            )),
            "docs/runbook.md has no `{code}`"
        );
    }
}

/// The texts of a piece of code: its string literals, with `…` for each value, as an operator reads
/// them.
fn literals(code: &str) -> Vec<String> {
    let (mut found, mut chars) = (Vec::new(), code.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'"') => drop(chars.next()),
            '"' => found.push(literal(&mut chars)),
            _ => {}
        }
    }
    found
}

fn literal(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                escaped => text.extend(escaped),
            },
            '{' if chars.next_if_eq(&'{').is_none() => {
                while chars.next().is_some_and(|c| c != '}') {}
                text.push('…');
            }
            c => text.push(c),
        }
    }
    // Schema and table are one name.
    text.replace("….…", "…")
}

/// The arguments of each call of one of these macros and functions.
fn calls<'a>(code: &'a str, names: &[&str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    for name in names {
        for (start, _) in code.match_indices(name) {
            let rest = &code[start + name.len()..];
            let (mut depth, mut is_text, mut is_escaped) = (0, false, false);
            let (mut parts, mut from) = (Vec::new(), 0);
            for (at, c) in rest.char_indices() {
                match c {
                    _ if std::mem::take(&mut is_escaped) => {}
                    '\\' => is_escaped = is_text,
                    '"' => is_text = !is_text,
                    _ if is_text => {}
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' if depth == 0 => {
                        parts.push(rest[from..at].trim());
                        break;
                    }
                    ')' | ']' | '}' => depth -= 1,
                    ',' if depth == 0 => {
                        parts.push(rest[from..at].trim());
                        from = at + 1;
                    }
                    _ => {}
                }
            }
            found.push(parts);
        }
    }
    found
}

/// What the program warns of: the text of each `warn!` and `error!`, and why an event is refused.
fn warnings() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files("src", "rs") {
        let code = code(&fs::read_to_string(&path).expect("readable"));
        for call in calls(&code, &["warn!(", "error!("]) {
            found.extend(
                call.iter().find(|part| part.starts_with('"')).map(|text| literals(text).concat()),
            );
        }
    }
    let refusals = read("src/core/event/mod.rs");
    let shown = refusals.split("impl fmt::Display for Refusal").nth(1).expect("it is shown");
    let shown = shown.split("\n}\n").next().expect("its end");
    found.extend(literals(shown));
    // Those have their text from elsewhere: a fault, or the guard.
    found.retain(|text| text != "…");
    found
}

/// A line of the log is searched for in the runbook: each has its heading, and no heading is of a line
/// that is gone.
#[test]
fn the_runbook_has_every_line_of_the_log() {
    let page = read("docs/runbook.md");
    let page = page.split("## Codes of `/readyz`").next().expect("what comes before");
    let headings: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let texts: Vec<_> =
        headings.iter().flat_map(|heading| heading.split('`').skip(1).step_by(2)).collect();
    let warnings = warnings();
    assert!(warnings.len() > 50, "only {} texts were found", warnings.len());
    let is_there = |warning: &&String| {
        texts.iter().any(|text| {
            let start = text.trim_end_matches('…').trim_end();
            let rest = warning.strip_prefix(start).map(|rest| rest.trim_matches(['…', ' ']));
            rest.is_some_and(|rest| rest.is_empty() || start.chars().count() >= 16)
        })
    };
    let missing: Vec<_> = warnings.iter().filter(|warning| !is_there(warning)).collect();
    assert!(missing.is_empty(), "docs/runbook.md has no heading with {missing:#?}");
    let said: String = files("src", "rs")
        .iter()
        .flat_map(|path| literals(&code(&fs::read_to_string(path).expect("readable"))))
        .fold(String::new(), |all, text| all + &text + "\n");
    let is_gone = |text: &&&str| {
        let text = text.trim_matches('…').trim();
        let is_said = said.contains(text) || warnings.iter().any(|known| known.contains(text));
        !is_said && text.len() >= 8
    };
    let gone: Vec<_> = texts.iter().filter(is_gone).collect();
    assert!(gone.is_empty(), "headings of docs/runbook.md that nothing says: {gone:#?}");
}

/// A front page that nobody reads to its end helps nobody.
#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines: the rest belongs into docs/");
}

/// What `Finding::error(`, `warning(` or `unknown(` is called with, as (name, severity): written out,
/// or by a constant or variable of the file.
fn findings_made(text: &str) -> BTreeSet<(String, &'static str)> {
    let mut made = BTreeSet::new();
    for severity in ["error", "warning", "unknown"] {
        for call in text.split(&format!("Finding::{severity}(")).skip(1) {
            let first = call.split(',').next().unwrap_or_default().trim();
            let names: Vec<&str> = match first.strip_prefix('"') {
                Some(name) => vec![name.trim_end_matches('"')],
                None => {
                    let defined = [format!("let {first} = "), format!("const {first}: &str = ")];
                    let values = defined.iter().flat_map(|start| text.split(start).skip(1));
                    let values = values.filter_map(|rest| rest.split(';').next());
                    values.flat_map(|value| value.split('"').skip(1).step_by(2)).collect()
                }
            };
            let names =
                names.into_iter().filter(|name| pgoutbox::testing::slot::NAMES.contains(name));
            made.extend(names.map(|name| (name.to_owned(), severity)));
        }
    }
    made
}

/// A finding that nobody has seen may be none: each is had on a real server, with its severity.
#[test]
fn each_finding_is_seen_by_a_test() {
    let tests: String = files("tests/real", "rs")
        .iter()
        .map(|path| code(&fs::read_to_string(path).expect("readable")))
        .collect();
    let words: String = tests.split_whitespace().collect();
    let mut made = BTreeSet::new();
    for path in files("src", "rs") {
        made.extend(findings_made(&code(&fs::read_to_string(path).expect("readable"))));
    }
    for name in pgoutbox::testing::slot::NAMES {
        // In a list of names, or with how grave it is: not only as one that is not there.
        assert!(words.contains(&format!("\"{name}\",")), "no test sees {name}");
    }
    let unseen: Vec<_> = made
        .iter()
        .filter(|(name, severity)| !words.contains(&format!("\"{name}\",\"{severity}\"")))
        .collect();
    assert!(unseen.is_empty(), "no test has these, by name and severity: {unseen:?}");
}

#[test]
fn the_docs_have_every_metric_as_it_is() {
    assert_eq!(
        between(
            "docs/observability.md",
            "<!-- metrics: `pgoutbox config --metrics` -->\n",
            "<!-- end of metrics -->"
        ),
        pgoutbox::testing::metrics::docs_markdown().trim(),
        "put the output of `pgoutbox config --metrics` between the markers"
    );
}

/// Names in rules and dashboards that look like metrics of ours.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_name(c));
    words.filter(|word| word.starts_with("pgoutbox_") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_dashboards_name_metrics_that_there_are() {
    let known: BTreeSet<String> = pgoutbox::testing::metrics::METRICS
        .iter()
        .flat_map(|metric| {
            let suffixes: &[&str] = match metric.kind {
                pgoutbox::testing::metrics::MetricKind::Histogram => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().map(move |suffix| format!("{}{suffix}", metric.name))
        })
        .collect();
    assert_eq!(
        metrics_named("rate(pgoutbox_a_total[5m]) > x_pgoutbox"),
        ["pgoutbox_a_total"].into()
    );
    for (folder, extensions) in
        [("docker/prometheus", &["yaml", "yml"][..]), ("docker/grafana", &["json"])]
    {
        if !root().join(folder).exists() {
            continue;
        }
        for path in extensions.iter().flat_map(|extension| files(folder, extension)) {
            let text = fs::read_to_string(&path).expect("readable");
            for name in metrics_named(&text) {
                assert!(known.contains(name), "{} names {name}: no such metric", path.display());
            }
        }
    }
}

#[test]
fn each_dependency_has_its_reason_and_no_other() {
    let manifest = read("Cargo.toml");
    let listed = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let listed = listed.unwrap_or_default().lines().filter(|line| !line.starts_with('#'));
    let named: BTreeSet<_> =
        listed.filter_map(|line| line.split(" =").next()).map(str::trim).collect();
    let text = read("src/lib.rs");
    let section = text.split("# What it depends on, and why").nth(1).unwrap_or_default();
    let section = section.split("//! # ").next().unwrap_or_default();
    // Between backticks stands every second part; [`http`] and the like are not crates.
    let argued = section.split('`').skip(1).step_by(2);
    let argued: BTreeSet<_> = argued
        .filter(|name| !["Cargo.toml", "check", "observe::http", "main"].contains(name))
        .collect();
    let named: BTreeSet<_> = named.into_iter().filter(|name| !name.is_empty()).collect();
    assert_eq!(named, argued, "Cargo.toml's [dependencies] beside their reasons in src/lib.rs");
}

/// Keep a Changelog: what is unreleased with how to upgrade to it, then versions with their dates, the newest first; in
/// each what was added, changed, and so on, in this order, as a list.
#[test]
fn the_changelog_keeps_its_form() {
    const KINDS: [&str; 7] =
        ["Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let page = read("CHANGELOG.md");
    let mut versions = page.split("\n## ");
    assert!(versions.next().is_some_and(|head| head.starts_with("# Changelog\n")));
    let mut last = None;
    for (at, version) in versions.enumerate() {
        let (heading, text) = version.split_once('\n').expect("a text");
        if at == 0 {
            assert_eq!(heading, "[Unreleased]");
            assert!(text.trim_start().starts_with("### Upgrading\n"), "how to upgrade comes first");
        } else {
            let (number, date) = heading.split_once("] - ").expect("[1.2.3] - 2026-11-30");
            let number: Vec<u32> = number
                .trim_start_matches('[')
                .split('.')
                .map(|part| part.parse().expect("a number"))
                .collect();
            let is_date = |(at, c): (usize, char)| match at {
                4 | 7 => c == '-',
                _ => c.is_ascii_digit(),
            };
            assert!(date.len() == 10 && date.chars().enumerate().all(is_date), "{heading}");
            assert!(number.len() == 3 && last.is_none_or(|last| last > number), "{heading}");
            last = Some(number);
        }
        the_kinds_are_in_order(heading, text, &KINDS);
    }
    let own = format!("\n## [{}] - ", env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&own), "{own}");
}

fn the_kinds_are_in_order(heading: &str, text: &str, kinds: &[&str]) {
    let mut before = None;
    for part in text.split("\n### ").skip(1) {
        let (kind, list) = part.split_once('\n').expect("a list");
        let place = kinds.iter().position(|known| *known == kind);
        assert!(place.is_some(), "{heading}: {kind} is none of {kinds:?}");
        assert!(place > before, "{heading}: {kind} comes twice, or too late");
        before = place;
        // How to upgrade is told, the rest is listed.
        let is_listed =
            |line: &str| line.is_empty() || line.starts_with("- ") || line.starts_with("  ");
        let odd = list.lines().find(|line| kind != "Upgrading" && !is_listed(line));
        assert!(odd.is_none(), "{heading}, {kind}: {odd:?} is no line of a list");
    }
}

#[test]
fn nothing_waits_by_sleeping_and_nothing_is_ignored() {
    let mut found = BTreeMap::new();
    for path in files("tests", "rs") {
        if path.ends_with("tidy/main.rs") || path.ends_with("wait.rs") {
            continue;
        }
        let text = code(&fs::read_to_string(&path).expect("readable"));
        for banned in ["#[ignore", "thread::sleep("] {
            if text.contains(banned) {
                found.insert(path.clone(), banned);
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

/// What two tests need stands in `tests/harness` or `tests/model`, and is compiled once.
#[test]
fn no_file_is_part_of_two_programs() {
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, "rs")) {
        let text = fs::read_to_string(&path).expect("readable");
        let is_ours = path.ends_with("tidy/main.rs");
        assert!(is_ours || !text.contains("#[path"), "{} names a path", path.display());
    }
}

/// Most lines of a function.
const LONGEST: usize = 70;

/// Functions that are longer: each is a list or a table, which is not easier to read in parts. None
/// is added; one that has become shorter goes.
const LISTS: [(&str, &str); 8] = [
    ("src/cli/run/mod.rs", "relay_with"),
    ("src/config/postgres_url.rs", "libpqs"),
    ("src/config/tests/wrong.rs", "every_contradiction"),
    ("src/error/table.rs", "by_code"),
    ("src/slot/coverage.rs", "findings"),
    ("src/slot/own_tables.rs", "look"),
    ("src/slot/privileges.rs", "look"),
    ("src/slot/server.rs", "findings"),
];

/// Functions of a file, with their lines, without its tests.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.split("#[cfg(test)]").next().unwrap_or_default().lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words = line.split_whitespace();
        let mut words = words.skip_while(|word| {
            word.starts_with("pub") || ["const", "async", "unsafe"].contains(word)
        });
        if words.next() != Some("fn") || line.ends_with('}') {
            continue;
        }
        let name = words.next().unwrap_or_default();
        let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
        let is_end = |line: &&str| {
            line.len() - line.trim_start().len() == indent && [";", "}"].contains(&line.trim())
        };
        let rest = lines.iter().skip(number);
        let length = rest.take_while(|line| !is_end(line)).count() + 1;
        found.push((name, length));
    }
    found
}

#[test]
fn no_function_is_long() {
    let mut long = BTreeSet::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        let place = path.strip_prefix(root()).expect("below the root");
        let place = place.to_string_lossy().replace('\\', "/");
        let found = functions(&text).into_iter().filter(|(_, length)| *length > LONGEST);
        long.extend(found.map(|(name, _)| (place.clone(), name)));
    }
    let lists = LISTS.map(|(place, name)| (place.to_owned(), name.to_owned()));
    assert_eq!(
        long,
        BTreeSet::from(lists),
        "functions of more than {LONGEST} lines, and the lists"
    );
}

/// Settings and arguments have bounds: a duration that nobody bounds overflows a clock.
#[test]
fn each_duration_has_bounds() {
    for path in files("src", "rs") {
        let text = code(&fs::read_to_string(&path).expect("a file"));
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        let is_one = path.ends_with("cli/bounds.rs") || path.ends_with("config/value.rs");
        assert!(is_one || is_test || !text.contains("parse_duration"), "{}", path.display());
    }
}

/// A write that panics, or waits for a reader, ends or stops the relay.
#[test]
fn one_file_writes_to_the_outputs() {
    for path in files("src", "rs") {
        let text = code(&fs::read_to_string(&path).expect("a file"));
        if path.ends_with("src/output.rs") {
            continue;
        }
        for banned in ["println!", "print!(", "io::stderr", "io::stdout", " stdout()", " stderr()"]
        {
            assert!(!text.contains(banned), "{banned} in {}", path.display());
        }
    }
}

/// A wait of its own forgets what is late, and a pause of its own forgets its bound: there is one of each.
#[test]
fn one_file_bounds_waits_and_one_doubles_pauses() {
    for path in files("src", "rs") {
        let text = code(&fs::read_to_string(&path).expect("a file"));
        let words: String = text.split_whitespace().collect();
        for (home, banned) in [
            ("src/within.rs", &["time::timeout", ",timeout}", ",timeout,", "{timeout,"][..]),
            ("src/backoff.rs", &["saturating_pow(", "*2).min(", "saturating_mul(2).min("]),
        ] {
            let found = banned.iter().find(|banned| words.contains(**banned));
            assert!(path.ends_with(home) || found.is_none(), "{found:?} in {}", path.display());
        }
    }
}

/// Names that two types may have: a message is what both ends exchange, in Postgres' words (`pgoutput`)
/// and in AMQP's; a relay and an event are also what a program calls them that has the library.
const SHARED_NAMES: [&str; 3] = ["Message", "Relay", "Event"];

/// Each type of a file, and whether it is public: `pub`, `pub(crate)`.
fn types(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().peekable();
        let visibility = words.next_if(|word| word.starts_with("pub"));
        if matches!(words.next(), Some("struct" | "enum" | "type" | "trait")) {
            let name = words.next().unwrap_or_default();
            let name = name.split(['<', '(', ';', '{']).next().unwrap_or_default().to_owned();
            found.push((name, matches!(visibility, Some("pub" | "pub(crate)"))));
        }
    }
    found
}

/// A reader who meets a name is not to ask which of them it is.
#[test]
fn no_two_public_types_have_one_name() {
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        let place = path.strip_prefix(root()).expect("below the root").display().to_string();
        for (name, _) in types(&text).into_iter().filter(|(_, is_public)| *is_public) {
            homes.entry(name).or_default().push(place.clone());
        }
    }
    assert!(homes.len() > 150, "only {} types were found", homes.len());
    homes.retain(|name, homes| homes.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    assert!(homes.is_empty(), "rename all but one of each: {homes:#?}");
}

/// A type is a thing. A participle says that something happened to it, and leaves the thing to its file.
#[test]
fn no_type_is_called_by_a_bare_participle() {
    const IRREGULAR: [&str; 12] = [
        "Built", "Driven", "Found", "Given", "Held", "Kept", "Known", "Said", "Seen", "Shown",
        "Spent", "Told",
    ];
    // These are nouns.
    const NOUNS: [&str; 3] = ["Feed", "Need", "Speed"];
    for path in files("src", "rs") {
        let text = code(&fs::read_to_string(&path).expect("readable"));
        for (name, _) in types(&text) {
            let is_one_word = !name.chars().skip(1).any(char::is_uppercase);
            let is_regular = name.ends_with("ed") && !NOUNS.contains(&name.as_str());
            let is_participle = is_regular || IRREGULAR.contains(&name.as_str());
            assert!(!(is_one_word && is_participle), "{name} in {}", path.display());
        }
    }
}

/// The sections of a file's docs that say when a function fails.
fn errors_sections(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| **line == "/// # Errors");
    let section = |(at, _): (usize, &&str)| {
        let rest = lines.iter().skip(at + 1).map_while(|line| line.strip_prefix("///"));
        rest.map(str::trim).collect::<Vec<_>>().join(" ")
    };
    starts.map(section).collect()
}

/// A section that sends its reader elsewhere, or to a word, is worse than none.
#[test]
fn each_errors_section_says_something() {
    let mut empty = BTreeSet::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).expect("readable");
        for section in errors_sections(&text) {
            let begins =
                ["As [", "The connection's", "A connection's", "None", "Likewise", "The same."];
            let says = section.split_whitespace().count() >= 5
                && !begins.iter().any(|banned| section.starts_with(banned));
            if !says {
                empty.insert(format!("{}: {section}", path.display()));
            }
        }
    }
    assert!(empty.is_empty(), "{empty:#?}");
}

/// What a program that has the library can name, beside the door of these tests.
#[test]
fn the_public_surface_is_small() {
    let text = code(&read("src/lib.rs"));
    let public: Vec<_> = text.lines().filter(|line| line.starts_with("pub ")).collect();
    let wanted = [
        "pub mod error;",
        "pub mod cli;",
        "pub mod outbox;",
        "pub use embed::{Builder, Now, Relay, Status};",
        "pub mod testing;",
    ];
    assert_eq!(public, wanted);
    assert!(text.contains("#[doc(hidden)]\npub mod testing;"), "{text}");
    let own = code(&read("src/cli/mod.rs"));
    let own: Vec<_> = own.lines().filter(|line| line.starts_with("pub ")).collect();
    assert!(matches!(*own, [line] if line.contains("main")), "{own:?}");
}

/// Somebody who wants to see it at work waits for the compiler, and for nothing else.
#[test]
fn the_demo_is_one_build_without_optimisation() {
    let makefile = read("Makefile");
    let demo = makefile.split("\ndemo:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let builds: Vec<_> =
        demo.expect("a target").lines().filter(|line| line.contains("cargo ")).collect();
    assert!(
        matches!(*builds, [one] if one.contains("--profile demo") && one.contains("--no-default-features")),
        "{builds:?}"
    );
    let manifest = read("Cargo.toml");
    let profile = manifest.split("[profile.demo]\n").nth(1).expect("a profile");
    assert!(profile.contains("lto = \"off\"") && profile.contains("opt-level = 0"), "{profile}");
}

/// Each line of a file that begins with this, without it.
fn values(path: &str, before: &str) -> Vec<String> {
    let text = read(path);
    let found = text.lines().filter_map(|line| line.trim_start().strip_prefix(before));
    found.map(|rest| rest.trim_matches(['"', ' ']).to_owned()).collect()
}

/// Cargo.toml says which version it is; what stands elsewhere is held to that.
#[test]
fn there_is_one_version() {
    let places = [
        ("docker/Dockerfile", "ARG VERSION="),
        ("docker/kubernetes/kustomization.yaml", "newTag:"),
        ("docker/kubernetes/init-job.yaml", "image: pgoutbox:"),
        ("docker/helm/Chart.yaml", "version:"),
        ("docker/helm/Chart.yaml", "appVersion:"),
    ];
    for (path, before) in places {
        let found = values(path, before);
        assert_eq!(found, [env!("CARGO_PKG_VERSION")], "{path}: {before}");
    }
}

/// A line of YAML without what only makes it look as it does.
fn plain(line: &str) -> Option<&str> {
    let line = line.split(" #").next().unwrap_or_default().trim();
    (!line.is_empty() && !line.starts_with('#') && line != "---").then_some(line)
}

/// What the chart's template has for a line of the kustomization: the same, or the same key with a value of
/// the chart's own.
fn is_templated(line: &str, template: &[&str]) -> bool {
    // Up to the value, whose braces and quotes do not count.
    let key = line.split_once(": ").map_or(line, |(key, _)| key);
    template.iter().any(|own| {
        *own == line
            || own.starts_with(key) && own.contains("{{")
            || own.trim_end_matches(':') == key
    })
}

/// Whoever changes one of the two changes the other. `make dist` renders the chart and compares all of it.
#[test]
fn the_chart_has_what_the_kustomization_has() {
    let values = read("docker/helm/values.yaml");
    let values: Vec<&str> = values.lines().filter_map(plain).collect();
    for file in fs::read_dir(root().join("docker/kubernetes")).expect("a folder") {
        let name = file.expect("a file").file_name().into_string().expect("UTF-8");
        let text = read(format!("docker/kubernetes/{name}"));
        let template = match name.as_str() {
            "kustomization.yaml" => continue,
            "pgoutbox.toml" => String::new(),
            name => read(format!("docker/helm/templates/{name}")),
        };
        // An anchor is only another way of saying the same label.
        let template: Vec<&str> = template.lines().filter_map(plain).collect();
        for line in text.lines().filter_map(plain).filter(|line| !line.contains("labels: &")) {
            let is_there = is_templated(line, &template) || values.contains(&line);
            assert!(is_there, "docker/helm lacks this of docker/kubernetes/{name}: {line}");
        }
    }
}
