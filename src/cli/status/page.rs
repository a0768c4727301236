//! What is shown, before it is written: as it is, or fitted to a screen.

use std::fmt::Display;

use super::Mood;
use crate::output;
use crate::text::{harmless, wrap};

/// Where what is said begins, right of its name.
const INDENT: usize = 10;

/// Lines, in order.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<String>, Option<Mood>);

impl Page {
    /// The first line: all of it in a word.
    pub(super) fn begin(&mut self, mood: Mood, line: impl Display) {
        self.0.insert(0, harmless(line));
        self.1 = Some(mood);
    }

    /// The first line in the colour of its mood, where somebody sits before it who wants colours.
    fn coloured(&self, lines: Vec<String>) -> Vec<String> {
        let Some(mood) = self.1 else { return lines };
        let paint = |(at, line): (usize, String)| {
            if at == 0 { mood.painted(line) } else { line }
        };
        lines.into_iter().enumerate().map(paint).collect()
    }

    /// One line more, or several.
    pub(super) fn say(&mut self, text: impl Display) {
        self.0.extend(harmless(text).split('\n').map(str::to_owned));
    }

    /// Line by line. On a terminal what is long goes on below its beginning; what is to be copied stays whole.
    pub(super) fn print(&self) {
        let lines = match output::columns() {
            None => self.0.clone(),
            Some(columns) => self.0.iter().flat_map(|line| wrapped(line, columns)).collect(),
        };
        for line in self.coloured(lines) {
            output::out(format!("{line}\n").as_bytes());
        }
    }

    /// No line longer than the screen is wide, and no more than it is high; the last one says how
    /// many there is no room for.
    pub(super) fn fitted(&self, columns: usize, rows: usize) -> Vec<String> {
        let mut lines: Vec<String> =
            self.0.iter().flat_map(|line| wrap(line, columns, INDENT)).collect();
        if lines.len() > rows {
            let hidden = lines.len() - rows + 1;
            lines.truncate(rows.saturating_sub(1));
            lines.push(format!("… {hidden} more lines"));
        }
        self.coloured(lines)
    }
}

fn wrapped(line: &str, columns: usize) -> Vec<String> {
    match line.trim_start().starts_with("hint: ") {
        true => vec![line.to_owned()],
        false => wrap(line, columns, INDENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_screen() {
        let mut page = Page::default();
        page.say("relay     running for 3s: reads the stream");
        page.say("slot      ünbreakable-and-very-long-indeed");
        assert_eq!(page.fitted(80, 24), page.0, "what fits stays as it is");
        assert_eq!(
            page.fitted(24, 24),
            [
                "relay     running for",
                "          3s: reads the",
                "          stream",
                "slot      ünbreakable-an",
                "          d-very-long-in",
                "          deed",
            ]
        );
        assert_eq!(page.fitted(24, 3)[2], "… 4 more lines");
        assert_eq!(page.fitted(24, 6).len(), 6);
        for columns in 0..60 {
            for line in page.fitted(columns.max(1), 99) {
                assert!(line.chars().count() <= columns.max(1), "{columns}: {line}");
            }
        }
        assert_eq!(page.fitted(80, 0).len(), 1, "no screen is no reason to panic");
    }

    #[test]
    fn lines_of_one_text_are_lines() {
        let mut page = Page::default();
        page.say("a\nb");
        assert_eq!(page.0, ["a", "b"]);
    }
}
