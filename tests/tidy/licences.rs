//! Licences, sources and banned crates of what the program is made of, by `deny.toml`, without a network: cargo-deny takes minutes to
//! build, and `make audit` has it look further (the texts, and advisories).

use std::collections::BTreeSet;
use std::process::Command;

use crate::read;

/// A list of texts in `deny.toml`.
fn listed(name: &str) -> BTreeSet<String> {
    let text = read("deny.toml");
    let list = text.split(&format!("\n{name} = [")).nth(1).expect(name);
    let list = list.split("\n]").next().expect("an end");
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default());
    let quoted = lines.filter_map(|line| line.split('"').nth(1));
    quoted.map(str::to_owned).collect()
}

/// Name, source and licence of each crate that the program is made of, on every system.
fn crates() -> Vec<[String; 2]> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let args =
        ["tree", "--offline", "--locked", "--package", "pgoutbox", "--edges", "normal,build"];
    let shown = [
        "--target",
        "all",
        "--all-features",
        "--prefix",
        "none",
        "--no-dedupe",
        "--format",
        "{p}|{l}",
    ];
    let output = Command::new(cargo).args(args).args(shown).output().expect("cargo");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: BTreeSet<&str> = told.lines().collect();
    let all = lines.into_iter().filter_map(|line| line.split_once('|'));
    all.map(|(package, licence)| [package.to_owned(), licence.to_owned()]).collect()
}

/// An SPDX expression holds with these licences; older crates write `MIT/Apache-2.0`.
fn holds(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let text = text.replace(" WITH ", "+WITH+");
    let mut words = text.split_whitespace().peekable();
    let told = either(&mut words, allowed);
    told == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `None`: it is no expression.
fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut told = both(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        told |= both(words, allowed)?;
    }
    Some(told)
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut told = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        told &= one(words, allowed)?;
    }
    Some(told)
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    match words.next()? {
        "(" => {
            let told = either(words, allowed)?;
            words.next_if_eq(&")").map(|_| told)
        }
        licence => Some(allowed.contains(&licence.replace("+WITH+", " WITH "))),
    }
}

#[test]
fn expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/GPL-2.0",
        "MIT AND Apache-2.0",
        "(GPL-3.0 OR MIT) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(holds(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND GPL-3.0",
        "GPL-2.0 WITH LLVM-exception",
        "(MIT",
        "MIT MIT",
        "MIT OR",
    ] {
        assert!(!holds(bad, &allowed), "{bad}");
    }
}

#[test]
fn each_crate_is_under_a_licence_that_is_allowed_and_none_is_banned() {
    let (allowed, all) = (listed("allow"), crates());
    assert!(all.len() > 150 && allowed.contains("MIT"), "{} crates, {allowed:?}", all.len());
    let banned = listed("deny");
    assert!(banned.contains("openssl"), "{banned:?}");
    for [package, licence] in &all {
        let name = package.split(' ').next().unwrap_or_default();
        assert!(
            holds(licence, &allowed),
            "{package} is under {licence:?}: deny.toml allows {allowed:?}"
        );
        assert!(!banned.contains(name), "{package} is banned by deny.toml");
        // What is neither ours nor of the registry has its place behind its version.
        let place = package.split_once('(').map(|(_, place)| place);
        let is_plain =
            place.is_none_or(|place| place.starts_with("proc-macro") || place.starts_with('/'));
        assert!(is_plain, "{package} is not of the registry");
    }
}

/// Nothing of Cargo.lock is of a place that deny.toml knows not.
#[test]
fn each_crate_of_the_lock_is_of_the_registry() {
    let lock = read("Cargo.lock");
    let sources: BTreeSet<&str> =
        lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    let registry = "\"registry+https://github.com/rust-lang/crates.io-index\"";
    assert_eq!(sources, BTreeSet::from([registry]));
    // Whatever a mirror says, its bytes are those that were locked.
    let packages = lock.matches("\nsource = ").count();
    assert_eq!(lock.matches("\nchecksum = ").count(), packages);
}
