//! The settings as a Markdown table.

use std::fmt::Write as _;

use super::settings::{Fallback, SETTINGS, Setting};

/// A Markdown table of all settings: key, variable and flag, default, bounds, meaning. The
/// `docs/settings.md` holds it between markers, and a test keeps it so.
pub fn docs_markdown() -> String {
    let mut text = String::from(
        "| Key | Variable, flag | Default | Bounds | Meaning |\n|---|---|---|---|---|\n",
    );
    for setting in SETTINGS {
        let default = match setting.fallback {
            Fallback::Unset => String::new(),
            Fallback::Value(value) => format!("`{}`", cell(value)),
            Fallback::Derived(words) => cell(words),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {} | {} |",
            setting.key.replace('*', "N").replace('?', "NAME"),
            names(setting),
            cell(&setting.kind.bounds()),
            cell(setting.doc),
        );
    }
    text
}

fn names(setting: &Setting) -> String {
    let env = setting.env().replace('*', "N").replace('?', "NAME");
    let names = [Some(env.as_str()), setting.shared_env, setting.flag];
    let names: Vec<String> = names.into_iter().flatten().map(|name| format!("`{name}`")).collect();
    let file = match setting.kind.is_secret() {
        true => "; with `_FILE` from a file",
        false => "",
    };
    format!("{}{file}", names.join(", "))
}

/// Text for a cell, where a bar would end it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
