//! What holds for any input.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::kind::ValueKind;
use super::super::raw::Raw;
use super::super::settings::{SETTINGS, env_name};
use super::super::value::parse;
use super::super::{Piece, Template};
use super::*;

/// Everything that loading may say, whatever comes of it.
fn said(tried: &Try) -> String {
    match load(&tried.sources, Needs::ALL) {
        Ok((config, explained)) => {
            format!("{config:?}\n{}\n{}", explained.toml(), explained.json())
        }
        Err(fault) => fault.to_string(),
    }
}

/// Text made of what parsers trip over.
fn tricky() -> impl Strategy<Value = String> {
    let parts = vec![
        ":",
        "@",
        "/",
        "?",
        "#",
        "%",
        "%2",
        "%41",
        "[",
        "]",
        "&",
        "=",
        ",",
        "'",
        "\\",
        ".",
        "..",
        "*",
        "{",
        "}",
        "|",
        "é",
        "\u{0}",
        "\n",
        "0",
        "99999999999999999999",
        "-",
        "s",
        "MiB",
        "postgres://",
        "amqp://",
        "amqps://",
        "h",
        "sslmode",
        "host",
        "tables",
        "\"",
        "$",
        " ",
    ];
    prop_oneof![vec(select(parts), 0..12).prop_map(|parts| parts.concat()), any::<String>(),]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn reading_a_value_never_panics(index in 0..SETTINGS.len(), text in tricky(), number: i64) {
        let kind = SETTINGS[index].kind;
        let _ = parse(kind, &Raw::Untyped(text.clone()));
        let _ = parse(kind, &Raw::Integer(number));
        let _ = parse(kind, &Raw::List(vec![Raw::Text(text), Raw::Integer(number)]));
    }

    #[test]
    fn loading_never_panics(
        file in tricky(),
        sets in vec((0..SETTINGS.len(), tricky()), 0..4),
        envs in vec((tricky(), tricky()), 0..4),
        url in tricky(),
    ) {
        let mut tried = Try::both().file(&file).env(&[("DATABASE_URL", &url), ("AMQP_URL", &url)]);
        for (index, text) in sets {
            let key = key_of(&SETTINGS[index]);
            tried = tried.set(&format!("{key}={text}")).set(&text);
        }
        for (name, text) in envs {
            tried = tried.env(&[(&env_name(&name), &text)]);
        }
        said(&tried);
    }

    /// A password in a password's place never comes out, however badly it is written.
    #[test]
    fn a_password_in_a_url_never_shows(
        before in "([0-9]{0,3}[/?#]([a-z]{1,4}=)?)?[:@/?#%&=,\\[\\]a-z0-9.+ ]{0,3}",
        after in "[:@/?#%&=,\\[\\]a-z0-9.+ ]{0,6}",
        tail in "(/d)?(\\?[a-z=&/%]{0,8})?",
    ) {
        let secret = "S3CRETw0rd";
        for (name, scheme) in [("DATABASE_URL", "postgres"), ("AMQP_URL", "amqp")] {
            let url = format!("{scheme}://user:{before}{secret}{after}@host{tail}");
            let tried = Try::both().env(&[(name, &url)]);
            let text = said(&tried);
            prop_assert!(!text.contains(secret), "{url}: {text}");
            let tried = Try::both().file(&format!("[postgres]\nurl = {url:?}\n[amqp]\nurl = {url:?}\n"));
            let text = said(&tried);
            prop_assert!(!text.contains(secret), "{url}: {text}");
        }
    }

    /// Nor does one on a line that is not TOML.
    #[test]
    fn a_password_on_a_broken_line_never_shows(
        before in "[:@/#%&,\\[\\]{}a-z0-9.+ '\"\\\\-]{0,4}",
        after in "[:@/#%&,\\[\\]{}a-z0-9.+ '\"\\\\-]{0,4}",
    ) {
        let secret = "S3CRETw0rd";
        let text = said(&Try::both().file(&format!("[postgres]\npassword = {before}{secret}{after}\n")));
        prop_assert!(!text.contains(secret), "{text}");
    }

    #[test]
    fn settings_within_bounds_are_taken(index in 0..SETTINGS.len(), share in 0..=1000u64) {
        let setting = &SETTINGS[index];
        let between = |min: u64, max: u64| min + (max - min) / 1000 * share;
        let text = match setting.kind {
            ValueKind::Count { min, max } => between(min, max).to_string(),
            ValueKind::Size { min, max } => format!("{}B", between(min, max)),
            ValueKind::Span { min, max } => {
                let [min, max] = [min, max].map(|bound| u64::try_from(bound.as_millis()).unwrap());
                format!("{}ms", between(min, max))
            }
            _ => return Ok(()),
        };
        prop_assert!(parse(setting.kind, &Raw::Untyped(text.clone())).is_ok(), "{text}");
    }

    #[test]
    fn a_template_keeps_its_text(text in "[a-z.{}|]{0,20}") {
        if let Ok(Template(alternatives)) = Template::parse(&text) {
            let written: Vec<String> = alternatives
                .iter()
                .map(|pieces| {
                    let piece = |piece: &Piece| match piece {
                        Piece::Text(text) => text.replace('{', "{{").replace('}', "}}"),
                        Piece::Column(name) => format!("{{{name}}}"),
                        Piece::Hash(name, count) => format!("{{hash({name}) % {count}}}"),
                    };
                    pieces.iter().map(piece).collect()
                })
                .collect();
            prop_assert_eq!(written.join("|"), text);
        }
    }
}
