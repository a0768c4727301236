//! The SQL files and their variables.
//!
//! A file is what an operator runs with `psql -v name=value -f file`, and what the code runs
//! after [`render`]: the same bytes, so they cannot drift. Variables are psql's own:
//! `:"name"` an identifier, `:'name'` a literal. psql's bare `:name` is used for expressions only: what the
//! server itself wrote (the publication's row filter, the columns' texts), and what a mark is ([`BARE`]).

mod files;

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::error::Fault;

pub(crate) use files::*;

/// Puts the values of its variables into a file.
///
/// # Errors
/// A variable without a value, or a value without its variable: either is a slip of the
/// caller's, and running the rest would be worse.
pub(crate) fn render(sql: &str, variables: &[(&str, &str)]) -> Result<String, Fault> {
    let mut out = String::with_capacity(sql.len() + 64);
    let mut used = vec![false; variables.len()];
    let mut rest = sql;
    while let Some(token) = Token::next(rest) {
        let (text, after) = rest.split_at(token.len());
        rest = after;
        let Token::Variable(name, quote, _) = token else {
            out.push_str(text);
            continue;
        };
        let at = variables.iter().position(|(known, _)| *known == name);
        let Some((at, (_, value))) = at.and_then(|at| Some((at, variables.get(at)?))) else {
            return Err(slip(format!("the SQL variable \"{name}\" has no value")));
        };
        if let Some(used) = used.get_mut(at) {
            *used = true;
        }
        match quote {
            Quote::Identifier => out.push_str(&escape_identifier(value)),
            Quote::Literal => out.push_str(&escape_literal(value)),
            Quote::Bare => out.push_str(value),
        }
    }
    match variables.iter().zip(used).find(|(_, used)| !used) {
        Some(((name, _), _)) => Err(slip(format!("the SQL has no variable \"{name}\""))),
        None => Ok(out),
    }
}

/// [`render`] with only those of the variables that the file has.
pub(crate) fn render_some(sql: &str, variables: &[(&str, &str)]) -> Result<String, Fault> {
    let used: Vec<_> = variables.iter().filter(|(name, _)| has(sql, name)).copied().collect();
    render(sql, &used)
}

/// A file has this variable.
pub(crate) fn has(sql: &str, name: &str) -> bool {
    let is_bare = || {
        let used = format!(":{name}");
        let uses = sql.match_indices(&used).map(|(at, used)| at + used.len());
        let mut ends =
            uses.map(|end| !sql.get(end..).is_some_and(|rest| rest.starts_with(is_word)));
        BARE.contains(&name) && ends.any(|is_end| is_end)
    };
    is_bare() || sql.contains(&format!(":\"{name}\"")) || sql.contains(&format!(":'{name}'"))
}

/// The variables that stand as they are: `options`, more arguments of a function, and others about a row
/// by the name of `outbox`:
/// - `among`: whether it is one of those that are looked at;
/// - `filter`: what the publication's row filter lets pass;
/// - `in_row`: whether it holds what a mark in it is, whatever mode its table has;
/// - `is_event`: whether it is the row of the event whose id it has ([`EventRows`](super::event_rows::EventRows));
/// - `is_same_table`: whether the table that has the name is still the one that was looked up ([`is_same_table`]);
/// - `marked`: whether the row is marked in itself; `true` or `false`, never NULL;
/// - `marked_at`: when, where its mark says so;
/// - `set_mark`: what an UPDATE sets;
/// - `mark_columns`: the names of the columns;
/// - `row_time`: what it says of its time, as text, '' where it leaves it empty; NULL where it has no such column;
/// - `sample`: which pages of its table are read;
/// - `texts`: a list of what its columns hold ([`TABLE_TEXTS`]);
/// - `value`: what it shows of its parked event;
/// - `where`: the row filter of a table that is put into a publication, or nothing.
const BARE: [&str; 15] = [
    "among",
    "filter",
    "in_row",
    "is_event",
    "is_same_table",
    "marked",
    "marked_at",
    "set_mark",
    "mark_columns",
    "options",
    "row_time",
    "sample",
    "texts",
    "value",
    "where",
];

/// What `:is_same_table` stands for: statements find their table by its name, which another one may have by now,
/// with the same ids. A row of that one is not theirs to mark. The cast by way of `text` makes the server look at each
/// execution, not when the statement is planned.
pub(crate) fn is_same_table(schema: &str, name: &str, relation: u32) -> String {
    format!("{}::text::regclass = {relation}::oid", literal(&qualified(schema, name)))
}

fn slip(what: String) -> Fault {
    Fault::definite(what, "this is a defect of pgoutbox: please report it")
}

/// An identifier as it stands in SQL.
pub(crate) fn identifier(name: &str) -> String {
    escape_identifier(name)
}

/// A literal as it stands in SQL.
pub(crate) fn literal(value: &str) -> String {
    escape_literal(value)
}

/// A table as it stands in SQL, with its schema.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", escape_identifier(schema), escape_identifier(name))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    Identifier,
    Literal,
    /// As it is.
    Bare,
}

/// As much of SQL's lexer as telling variables from text, strings and comments takes. The
/// numbers are lengths in bytes.
enum Token<'a> {
    Plain(usize),
    Variable(&'a str, Quote, usize),
}

impl<'a> Token<'a> {
    fn len(&self) -> usize {
        match self {
            Self::Plain(len) | Self::Variable(_, _, len) => *len,
        }
    }

    fn next(sql: &'a str) -> Option<Self> {
        let first = sql.chars().next()?;
        let plain = |len: Option<usize>| Some(Self::Plain(len.unwrap_or(sql.len())));
        match first {
            '-' if sql.starts_with("--") => plain(sql.find('\n')),
            '/' if sql.starts_with("/*") => plain(comment(sql)),
            '\'' => plain(quoted(sql, '\'', false)),
            '"' => plain(quoted(sql, '"', false)),
            '$' => plain(dollar_quoted(sql)),
            // A cast; taken whole, so that its second colon begins no variable.
            ':' if sql.starts_with("::") => plain(Some(2)),
            ':' => Some(Self::variable(sql).unwrap_or(Self::Plain(1))),
            _ if is_word(first) => plain(Some(word(sql))),
            _ => plain(Some(first.len_utf8())),
        }
    }

    fn variable(sql: &'a str) -> Option<Self> {
        let (sign, quote) = match sql.get(1..2)? {
            "\"" => ('"', Quote::Identifier),
            "'" => ('\'', Quote::Literal),
            _ => {
                let rest = sql.get(1..)?;
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                let word = rest.get(..end).filter(|word| BARE.contains(word))?;
                return Some(Self::Variable(word, Quote::Bare, end + 1));
            }
        };
        let name = sql.get(2..)?.split(sign).next()?;
        let is_name = !name.is_empty() && name.chars().all(is_word);
        let len = name.len() + 3;
        (is_name && sql.len() >= len).then_some(Self::Variable(name, quote, len))
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A word, with the dollar signs in it, and with its string where it is an `E'…'`.
fn word(sql: &str) -> usize {
    let len = sql.find(|c| !is_word(c) && c != '$').unwrap_or(sql.len());
    let (text, after) = sql.split_at(len);
    if text.eq_ignore_ascii_case("e") && after.starts_with('\'') {
        return quoted(after, '\'', true).map_or(sql.len(), |string| len + string);
    }
    len
}

/// A doubled quote needs no care: it ends one string and begins the next.
fn quoted(sql: &str, quote: char, has_escapes: bool) -> Option<usize> {
    let mut chars = sql.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' && has_escapes {
            chars.next();
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

fn dollar_quoted(sql: &str) -> Option<usize> {
    let tag = sql.get(1..)?.find('$').and_then(|end| sql.get(..end + 2));
    let is_tag = |tag: &&str| {
        let name = tag.trim_matches('$');
        name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match tag.filter(is_tag) {
        Some(tag) => sql.get(tag.len()..)?.find(tag).map(|end| end + 2 * tag.len()),
        None => Some(1),
    }
}

/// Comments nest.
fn comment(sql: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(sql: &str) -> String {
        render(sql, &[("x", "it's \"x\"")]).unwrap()
    }

    #[test]
    fn quotes_identifiers_and_literals() {
        assert_eq!(rendered(r#"a :"x" b"#), r#"a "it's ""x""" b"#);
        assert_eq!(rendered("a :'x'::text"), "a 'it''s \"x\"'::text");
    }

    #[test]
    fn leaves_everything_else_alone() {
        for plain in [
            "1::text",
            "a[1:2]",
            "'a :\"no\" b'",
            "'it''s :''no'' so'",
            r#"E'\' :"no" '"#,
            r#""a :'no' b""#,
            "-- :\"no\"\n",
            "/* :\"no\" /* nested */ :'no' */",
            "$$ :\"no\" $$",
            "$do$ $$ :'no' $$ $do$",
            "a$b$ $1",
            "x := 'y'",
            "é :: ü",
        ] {
            assert_eq!(
                rendered(&format!("{plain} :'x'")),
                format!("{plain} {}", literal("it's \"x\""))
            );
        }
    }

    #[test]
    fn unterminated_ends_are_left_alone() {
        for plain in ["'a", "\"a", "/* a", "$$ a", "E'a\\", ":\"", ":'x", ":", "$", "-- a"] {
            assert_eq!(render(plain, &[]).unwrap(), plain);
        }
    }

    #[test]
    fn wants_exactly_its_variables() {
        assert!(render(":'x'", &[]).unwrap_err().what.contains("\"x\" has no value"));
        assert!(render("1", &[("x", "1")]).unwrap_err().what.contains("no variable \"x\""));
    }

    /// Takes a quoted token apart again, by the server's rules.
    fn unquote(sql: &str) -> String {
        let sql = sql.trim_start();
        let (is_escaped, sql) = sql.strip_prefix('E').map_or((false, sql), |sql| (true, sql));
        let quote = sql.chars().next().unwrap();
        let inner = sql[1..sql.len() - 1].replace(&format!("{quote}{quote}"), &quote.to_string());
        if is_escaped { inner.replace(r"\\", r"\") } else { inner }
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in "\\PC*") {
            let variables = [("x", name.as_str())];
            prop_assert_eq!(&unquote(&render(":\"x\"", &variables).unwrap()), &name);
            prop_assert_eq!(&unquote(&render(":'x'", &variables).unwrap()), &name);
            // One token, so that nothing after it changes its meaning.
            let again = render(&render(":\"x\" :'x'", &variables).unwrap(), &[]).unwrap();
            prop_assert_eq!(again, render(":\"x\" :'x'", &variables).unwrap());
        }

        #[test]
        fn any_text_ends(text in "\\PC*") {
            let _ = render(&text, &[]);
        }
    }
}
