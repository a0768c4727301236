//! Templates over columns, for exchanges and routing keys.

use super::{Piece, Template};

/// Most bytes of fixed text in one alternative: AMQP's limit for the whole name.
const TEXT_BYTES: usize = 255;

impl Template {
    /// Reads a template: text with `{column}` in it, alternatives separated by `|`, spaces
    /// around an alternative not counted. `{{` and `}}` stand for the braces themselves; a
    /// `|` cannot be written.
    ///
    /// # Errors
    /// Says in words what is wrong: an alternative that is empty, a brace without its
    /// partner, a column name that is empty or over 63 bytes, fixed text over 255 bytes, a
    /// control character.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split('|')
            .map(|alternative| pieces(alternative.trim()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The text of a template without columns: the same for every event.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [alternative] => match alternative.as_slice() {
                [Piece::Text(text)] => Some(text),
                _ => None,
            },
            _ => None,
        }
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, alternative) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { " | " })?;
            for piece in alternative {
                match piece {
                    // As it must be written.
                    Piece::Text(text) => {
                        f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                    }
                    Piece::Column(name) => write!(f, "{{{name}}}")?,
                    Piece::Hash(name, count) => write!(f, "{{hash({name}) % {count}}}")?,
                }
            }
        }
        Ok(())
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    if text.is_empty() {
        return Err("an alternative is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it holds a control character".to_owned());
    }
    let mut pieces = Vec::new();
    let mut fixed = String::new();
    let mut fixed_bytes = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        fixed.push_str(before);
        if let Some(after) = brace.strip_prefix("{{") {
            fixed.push('{');
            rest = after;
        } else if let Some(after) = brace.strip_prefix("}}") {
            fixed.push('}');
            rest = after;
        } else if let Some(after) = brace.strip_prefix('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or("a `{` has no `}` (write `{{` for the brace itself)")?;
            fixed_bytes += fixed.len();
            if !fixed.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut fixed)));
            }
            pieces.push(piece(name.trim())?);
            rest = after;
        } else {
            return Err("a `}` has no `{` (write `}}` for the brace itself)".to_owned());
        }
    }
    fixed.push_str(rest);
    fixed_bytes += fixed.len();
    if !fixed.is_empty() {
        pieces.push(Piece::Text(fixed));
    }
    if fixed_bytes > TEXT_BYTES {
        return Err(format!("its fixed text has {fixed_bytes} bytes, AMQP allows {TEXT_BYTES}"));
    }
    Ok(pieces)
}

fn piece(name: &str) -> Result<Piece, String> {
    let Some(of) = name.strip_prefix("hash(") else { return column(name).map(Piece::Column) };
    let (of, count) = of.split_once(')').ok_or("`hash(` has no `)`")?;
    let count = count.trim().strip_prefix('%').and_then(|count| count.trim().parse().ok());
    match count.filter(|count| (1..=65_535).contains(count)) {
        Some(count) => Ok(Piece::Hash(column(of.trim())?, count)),
        None => Err("behind `hash(…)` stands `% N`, with N from 1 to 65,535".to_owned()),
    }
}

fn column(name: &str) -> Result<String, String> {
    match name {
        "" => Err("`{}` names no column".to_owned()),
        name if name.contains('{') => Err("a `{` stands inside braces".to_owned()),
        name if name.len() > 63 => Err("a column name is over 63 bytes".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn column(name: &str) -> Piece {
        Piece::Column(name.to_owned())
    }

    #[test]
    fn alternatives_columns_and_escapes() {
        assert_eq!(
            Template::parse("{topic} | {aggregate_type}.{ event_type }").unwrap(),
            Template(vec![
                vec![column("topic")],
                vec![column("aggregate_type"), text("."), column("event_type")],
            ])
        );
        assert_eq!(
            Template::parse("a{{b}}{c}").unwrap(),
            Template(vec![vec![text("a{b}"), column("c")]])
        );
        let hash = Piece::Hash("aggregate_id".to_owned(), 8);
        let hashed = Template::parse("orders.{hash( aggregate_id )%8}").unwrap();
        assert_eq!(hashed, Template(vec![vec![text("orders."), hash]]));
        assert_eq!(hashed.to_string(), "orders.{hash(aggregate_id) % 8}");
        assert_eq!(Template::parse(" outbox ").unwrap().fixed(), Some("outbox"));
        assert_eq!(Template::parse("{a}").unwrap().fixed(), None);
        assert_eq!(Template::parse("a|b").unwrap().fixed(), None);
    }

    #[test]
    fn wrong_templates_say_what_is_wrong() {
        for (template, what) in [
            ("", "empty"),
            ("a|", "empty"),
            ("a||b", "empty"),
            ("{a", "has no `}`"),
            ("a}", "has no `{`"),
            ("{}", "names no column"),
            ("{ }", "names no column"),
            ("{a{b}", "inside braces"),
            ("a\nb", "control"),
            ("{hash(a}", "has no `)`"),
            ("{hash(a)}", "% N"),
            ("{hash(a) % 0}", "% N"),
            ("{hash(a) % 65536}", "% N"),
            ("{hash() % 8}", "names no column"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(what), "{template:?}: {error}");
        }
        assert!(Template::parse(&"x".repeat(255)).is_ok());
        assert!(Template::parse(&format!("{}{{a}}x", "x".repeat(255))).is_err());
        assert!(Template::parse(&format!("{{{}}}", "c".repeat(64))).is_err());
    }
}
