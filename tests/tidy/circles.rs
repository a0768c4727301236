//! Which file imports which, by the paths that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::{code, files, root};

/// A module, by the names that lead to it.
type Module = Vec<String>;

/// What each file of `src/` imports of the others. Pages of folders (`mod.rs`) are left out: they show what their
/// files hold, to these as to others.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let mut texts = BTreeMap::new();
    for path in files("src", "rs") {
        let place = path.strip_prefix(root().join("src")).expect("below src").with_extension("");
        let names: Module =
            place.iter().map(|name| name.to_str().expect("UTF-8").to_owned()).collect();
        let last = names.last().expect("a name").as_str();
        let is_page = ["mod", "lib", "main", "testing"].contains(&last);
        if !is_page && !names.iter().any(|name| name == "tests") {
            texts.insert(names, code(&fs::read_to_string(path).expect("readable")));
        }
    }
    let of = |(module, text): (&Module, &String)| {
        let named = paths(text).into_iter().filter_map(|path| absolute(module, &path));
        let found = named.filter_map(|path| {
            let of_length = |end| path.iter().take(end).cloned().collect::<Module>();
            (1..=path.len()).rev().map(of_length).find(|it| texts.contains_key(it))
        });
        (module.clone(), found.filter(|it| it != module).collect())
    };
    texts.iter().map(of).collect()
}

/// The paths of a file that begin at the crate or at itself, those of `use` with its braces taken apart.
fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split("use ").skip(1) {
        tree("", part.split(';').next().unwrap_or_default(), &mut found);
    }
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at..];
            let is_in = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let end = rest.find(|c| !is_in(c)).unwrap_or(rest.len());
            found.push(rest[..end].to_owned());
        }
    }
    found
}

fn tree(before: &str, tree_of: &str, found: &mut Vec<String>) {
    let (mut depth, mut from) = (0_usize, 0);
    let ends = tree_of.char_indices().chain([(tree_of.len(), ',')]);
    for (at, c) in ends {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let part = tree_of[from..at].trim();
                from = (at + 1).min(tree_of.len());
                match part.split_once('{') {
                    Some((head, rest)) => {
                        let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
                        tree(&format!("{before}{}", head.trim()), inner, found);
                    }
                    None if part.is_empty() => {}
                    None => found.push(format!("{before}{part}")),
                }
            }
            _ => {}
        }
    }
}

fn absolute(module: &Module, path: &str) -> Option<Module> {
    let mut names = path.split("::").map(str::trim).peekable();
    let mut place = match names.peek() {
        Some(&"crate") => Vec::new(),
        Some(&("super" | "self")) => module.clone(),
        _ => return None,
    };
    while let Some(name) = names.next_if(|name| ["crate", "super", "self"].contains(name)) {
        if name == "super" {
            place.pop();
        }
    }
    place.extend(names.map(|name| name.split_whitespace().next().unwrap_or_default().to_owned()));
    Some(place)
}

/// Whether one leads to the other.
fn leads(imports: &BTreeMap<Module, BTreeSet<Module>>, from: &Module, to: &Module) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for next in imports.get(module).into_iter().flatten() {
            if next == to {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

/// Two files that import each other cannot be read one after the other.
#[test]
fn no_files_import_each_other() {
    let imports = imports();
    let arrows: usize = imports.values().map(BTreeSet::len).sum();
    assert!(imports.len() > 150 && arrows > 500, "{} files, {arrows} arrows", imports.len());
    let is_in_circle = |module: &&Module| leads(&imports, module, module);
    let found: Vec<_> =
        imports.keys().filter(is_in_circle).map(|module| module.join("/")).collect();
    assert!(found.is_empty(), "in a circle: {found:#?}");
}

#[test]
fn imports_are_read_as_they_are_written() {
    let mut found = paths("use super::{a::{B, C}, d};\nuse std::fmt;\nlet x = crate::e::F::g();");
    found.sort();
    assert_eq!(
        found,
        ["crate::e::F::g", "std::fmt", "super::", "super::a::B", "super::a::C", "super::d"]
    );
    let module = vec!["x".to_owned(), "y".to_owned()];
    assert_eq!(absolute(&module, "super::a::B").unwrap_or_default(), ["x", "a", "B"]);
    assert_eq!(absolute(&module, "std::fmt"), None);
}
