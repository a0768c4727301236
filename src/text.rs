//! Texts for people: durations to two units, and texts from outside that cannot do harm where they
//! are shown.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// Most characters that are shown of a text from outside, in a line of its own.
const LONGEST: usize = 300;

/// A duration to its two largest units, cut off below: `1m 15s`, `1s 277ms`. Of one that has milliseconds
/// nothing smaller is shown: `67ms`.
pub(crate) fn span(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(nanos / 1_000_000), "ms"),
        (u64::from(nanos / 1_000 % 1_000), "us"),
    ];
    let first = units.iter().position(|(count, _)| *count > 0);
    let shown = first.and_then(|first| units.get(first..)).unwrap_or_default();
    let parts: Vec<String> = shown
        .iter()
        .take(2)
        .filter(|(count, unit)| *count > 0 && (*unit != "us" || nanos < 1_000_000))
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A number as people read it: `100,000`.
pub(crate) fn thousands(number: u64) -> String {
    grouped(&number.to_string())
}

/// The same of digits.
pub(crate) fn grouped(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds likewise; what is not a duration counts as none.
pub(crate) fn span_seconds(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    span(Duration::from_secs(seconds.as_secs()))
}

/// A terminal would act on it, or show what stands around it in another order: control characters
/// of both sets, and those that turn the direction of writing or separate lines.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes one character so that it does no harm, in the form in which JSON has it too.
fn put(out: &mut impl Write, c: char) -> fmt::Result {
    match c {
        '\n' => out.write_str("\\n"),
        '\t' => out.write_str("\\t"),
        '\r' => out.write_str("\\r"),
        c if is_harmful(c) => {
            c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        }
        c => out.write_char(c),
    }
}

/// A text from outside (an id, a name, what a server says), as part of a line: nothing in it acts
/// on a terminal, it has no line breaks, and it is cut where it is very long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printable<'a>(pub &'a str);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, c) in self.0.chars().enumerate() {
            if index == LONGEST {
                return write!(f, "… ({} bytes)", self.0.len());
            }
            put(f, c)?;
        }
        Ok(())
    }
}

/// A whole output, or line of a log: its own line breaks stay, and nothing else in it acts on a
/// terminal. JSON stays the same JSON.
#[derive(Debug)]
pub(crate) struct Harmless<W>(pub W);

impl<W: Write> Write for Harmless<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(is_harmful) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| match c {
            '\n' => self.0.write_char('\n'),
            c => put(&mut self.0, c),
        })
    }
}

/// What is written becomes part of a line.
#[derive(Debug)]
pub(crate) struct OneLine<W>(pub W);

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(is_harmful) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| put(&mut self.0, c))
    }
}

/// A text of ours that may hold others', for output: see [`Harmless`].
pub(crate) fn harmless(text: impl Display) -> String {
    let mut out = Harmless(String::new());
    // Writing to a String cannot fail.
    let _ = write!(out, "{text}");
    out.0
}

/// Breaks a line at spaces where it can, and indents what goes on.
pub(crate) fn wrap(line: &str, columns: usize, indent: usize) -> Vec<String> {
    let indent = if columns > 2 * indent { indent } else { 0 };
    let mut lines = Vec::new();
    let mut rest: Vec<char> = line.chars().collect();
    while rest.len() > columns && columns > 0 {
        let space = rest.iter().take(columns + 1).rposition(|c| *c == ' ');
        let at = space.filter(|at| *at > indent).unwrap_or(columns);
        let next = rest.split_off(at);
        lines.push(rest.iter().collect());
        let next = next.into_iter().skip_while(|c| *c == ' ');
        rest = std::iter::repeat_n(' ', indent).chain(next).collect();
    }
    lines.push(rest.iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (nanos, text) in [
            (0, "0s"),
            (270, "0s"),
            (420_000, "420us"),
            (67_624_000, "67ms"),
            (1_000_420_000, "1s"),
            (1_277_836_270, "1s 277ms"),
            (10_000_000_000, "10s"),
            (75_200_000_000, "1m 15s"),
            (3_600_000_000_000, "1h"),
            (3_601_000_000_000, "1h"),
            (90_061_000_000_000, "1d 1h"),
            (86_400_000_000_000 * 400, "400d"),
        ] {
            assert_eq!(span(Duration::from_nanos(nanos)), text);
        }
        assert_eq!(span_seconds(f64::NAN), "0s");
        assert_eq!(span_seconds(61.9), "1m 1s");
    }

    #[test]
    fn hostile_texts_become_harmless() {
        let id = "a\u{1b}]0;owned\u{7}\u{1b}[2J\nb\t\u{9b}31m\u{7f}\u{202e}c\u{2028}";
        let shown = "a\\u001b]0;owned\\u0007\\u001b[2J\\nb\\t\\u009b31m\\u007f\\u202ec\\u2028";
        assert_eq!(Printable(id).to_string(), shown);
        assert_eq!(
            harmless(format_args!("x\n{id}")),
            format!("x\n{}", shown.replace("\\nb", "\nb"))
        );
        let long = "ü".repeat(4_000);
        assert_eq!(Printable(&long).to_string(), format!("{}… (8000 bytes)", "ü".repeat(LONGEST)));
        assert_eq!(Printable("order/7 ✓ 日本").to_string(), "order/7 ✓ 日本");
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left(text: String) {
            prop_assert!(!Printable(&text).to_string().contains(is_harmful));
            prop_assert!(!harmless(&text).replace('\n', "").contains(is_harmful));
        }

        #[test]
        fn json_stays_the_same(text: String, odd in "[\u{7f}\u{9b}\u{202e}\u{e0001}\n\"\\\\]{0,8}") {
            let value = serde_json::json!({ "id": text + &odd });
            let read: serde_json::Value =
                serde_json::from_str(&harmless(format!("{value:#}"))).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
