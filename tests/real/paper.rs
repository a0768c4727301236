//! What the program prints for shells and for `man`, and the rules that come with it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

fn pgoutbox(args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(env!("CARGO_BIN_EXE_pgoutbox")).args(args).output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(output.stdout)
}

/// A program that reads this, where the system has it.
fn reads(program: &str, args: &[&str], text: &[u8]) -> Result<Option<Output>> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        child => child?,
    };
    child.stdin.take().context("a pipe")?.write_all(text)?;
    Ok(Some(child.wait_with_output()?))
}

#[test]
fn shells_take_the_completions() -> Result<()> {
    for (shell, completes) in
        [("bash", "complete -F"), ("zsh", "#compdef pgoutbox"), ("fish", "complete -c pgoutbox")]
    {
        let script = pgoutbox(&["completions", shell])?;
        let text = String::from_utf8(script.clone())?;
        assert!(text.contains(completes), "{shell}: {text:.300}");
        assert!(text.contains("reconcile") || text.contains("replay"), "{shell}: {text:.300}");
        let Some(checked) = reads(shell, &["-n"], &script)? else {
            println!("{shell} is not installed: not checked by it");
            continue;
        };
        assert!(checked.status.success() && checked.stderr.is_empty(), "{shell}: {checked:?}");
    }
    Ok(())
}

/// What the shell itself would offer; zsh asks for a terminal, so it is left out.
#[test]
fn shells_complete_commands_and_options() -> Result<()> {
    let bash = r#"
        source /dev/stdin
        offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _pgoutbox pgoutbox "${@: -1}" "${@: -2:1}"
                  printf '%s\n' "${COMPREPLY[@]}"; }
        offer pgoutbox pa; offer pgoutbox parked retry --agg; offer pgoutbox completions zs"#;
    let fish = r"
        source -
        complete -C 'pgoutbox pa'; complete -C 'pgoutbox parked retry --agg'";
    for (shell, asks) in [("bash", bash), ("fish", fish)] {
        let script = pgoutbox(&["completions", shell])?;
        let Some(offered) = reads(shell, &["-c", asks], &script)? else {
            println!("{shell} is not installed: not asked");
            continue;
        };
        assert!(offered.status.success() && offered.stderr.is_empty(), "{shell}: {offered:?}");
        let offered = String::from_utf8(offered.stdout)?;
        let words = offered.lines().filter_map(|line| line.split('\t').next());
        let words: Vec<_> = words.filter(|word| !word.is_empty() && *word != "zsh").collect();
        assert_eq!(words, ["parked", "pause", "--aggregate", "--aggregate-id"], "{shell}");
    }
    Ok(())
}

#[test]
fn each_command_has_a_page_without_warnings() -> Result<()> {
    let page = String::from_utf8(pgoutbox(&["man"])?)?;
    assert!(page.contains("in commit order") && page.contains("Exit codes"), "{page:.600}");
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("man/man1");
    assert!(pgoutbox(&["man", "--out", out.to_str().context("UTF-8")?])?.is_empty());
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(&out)? {
        let path = entry?.path();
        let text = std::fs::read(&path)?;
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        if let Some(set) = reads("groff", &["-man", "-Kutf8", "-Tutf8", "-ww", "-z"], &text)? {
            assert!(set.status.success() && set.stderr.is_empty(), "{name}: {set:?}");
        } else {
            println!("groff is not installed: {name} is not checked by it");
        }
        pages.push(name);
    }
    for page in ["pgoutbox.1", "pgoutbox-run.1", "pgoutbox-parked-list.1"] {
        assert!(pages.iter().any(|name| name == page), "no {page} among {pages:?}");
    }
    Ok(())
}

/// Each rule on what it is for, and none on a healthy pair: `alerts_test.yaml` says which.
#[test]
fn the_alerts_fire_when_they_should() -> Result<()> {
    for args in [["check", "alerts.yaml"], ["test", "alerts_test.yaml"]] {
        let [verb, file] = args;
        let mut promtool = Command::new("promtool");
        promtool.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/prometheus"));
        let ran = promtool.args([verb, "rules", file]).output();
        let ran = ran.context("promtool: sh tests/setup.sh installs it")?;
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(())
}
