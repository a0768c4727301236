//! Prometheus' text format, version 0.0.4. Pure: figures in, text out.

use std::fmt::Write as _;
use std::time::Duration;

use crate::core::tally::Histogram;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises, save at a start.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Counts by bucket.
    Histogram,
}

impl MetricKind {
    /// Its word in the format.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MetricValue {
    /// A count.
    Count(u64),
    /// A whole number below zero, perhaps.
    Signed(i64),
    /// Any number.
    Real(f64),
}

impl From<u64> for MetricValue {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for MetricValue {
    fn from(count: usize) -> Self {
        Self::Count(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl From<i64> for MetricValue {
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl From<f64> for MetricValue {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<bool> for MetricValue {
    fn from(is_so: bool) -> Self {
        Self::Count(u64::from(is_so))
    }
}

impl From<Duration> for MetricValue {
    fn from(duration: Duration) -> Self {
        Self::Real(duration.as_secs_f64())
    }
}

/// The samples of one metric, which are written as they come. Without any, the metric is not
/// there at all.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    out: &'a mut String,
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    is_begun: bool,
}

impl<'a> Samples<'a> {
    /// None so far.
    pub(crate) fn new(
        out: &'a mut String,
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
    ) -> Self {
        Self { out, name, help, kind, is_begun: false }
    }

    /// One more, with these labels.
    pub(crate) fn put(&mut self, labels: &[(&str, &str)], value: impl Into<MetricValue>) {
        self.write("", labels, value.into());
    }

    /// One without labels.
    pub(crate) fn only(&mut self, value: impl Into<MetricValue>) {
        self.put(&[], value);
    }

    /// All samples of a histogram.
    pub(crate) fn histogram(&mut self, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            let bound = number(MetricValue::Real(bound));
            self.write("_bucket", &[("le", &bound)], count.into());
        }
        self.write("_sum", &[], histogram.sum_seconds().into());
        self.write("_count", &[], histogram.count().into());
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], value: MetricValue) {
        let Self { out, name, .. } = self;
        // Writing to a String cannot fail.
        if !self.is_begun {
            let _ = writeln!(out, "# HELP {name} {}", escaped(self.help, false));
            let _ = writeln!(out, "# TYPE {name} {}", self.kind.name());
            self.is_begun = true;
        }
        let _ = write!(out, "{name}{suffix}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(out, "{before}{label}=\"{}\"", escaped(text, true));
        }
        if !labels.is_empty() {
            out.push('}');
        }
        let _ = writeln!(out, " {}", number(value));
    }
}

fn number(value: MetricValue) -> String {
    match value {
        MetricValue::Count(count) => count.to_string(),
        MetricValue::Signed(number) => number.to_string(),
        MetricValue::Real(number) if number.is_nan() => "NaN".to_owned(),
        MetricValue::Real(number) if number == f64::INFINITY => "+Inf".to_owned(),
        MetricValue::Real(number) if number == f64::NEG_INFINITY => "-Inf".to_owned(),
        MetricValue::Real(number) => number.to_string(),
    }
}

/// A quote is an ordinary character in a help text, and ends a label.
fn escaped(text: &str, is_label: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_histogram_has_all_its_lines() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1).into());
        histogram.observe(Duration::from_secs(5_000).into());
        let mut out = String::new();
        Samples::new(&mut out, "a_seconds", MetricKind::Histogram, "How \"long\" \\ it\ntook.")
            .histogram(&histogram);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "# HELP a_seconds How \"long\" \\\\ it\\ntook.");
        assert_eq!(lines[1], "# TYPE a_seconds histogram");
        assert_eq!(lines[2], "a_seconds_bucket{le=\"0.0005\"} 0");
        assert_eq!(lines[3], "a_seconds_bucket{le=\"0.001\"} 1");
        assert_eq!(lines[22], "a_seconds_bucket{le=\"+Inf\"} 2");
        assert_eq!(lines[23], "a_seconds_sum 5000.001");
        assert_eq!(lines[24], "a_seconds_count 2");
        assert_eq!(lines.len(), 25);
    }

    #[test]
    fn a_metric_without_samples_is_not_there() {
        let mut out = String::new();
        Samples::new(&mut out, "a_bytes", MetricKind::Gauge, "Bytes.");
        assert_eq!(out, "");
    }

    /// Reads a label's value back, as Prometheus' own parser does.
    fn unescaped(text: &str) -> Option<String> {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => out.push(match chars.next()? {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                '"' | '\n' => return None,
                c => out.push(c),
            }
        }
        Some(out)
    }

    proptest! {
        #[test]
        fn any_label_can_be_read_back(text: String, odd in "[\\\\\"\n{},= ]{0,8}", count: u64) {
            let text = text + &odd;
            let mut out = String::new();
            Samples::new(&mut out, "a_total", MetricKind::Counter, "A.").put(&[("why", &text)], count);
            let line = out.strip_prefix("# HELP a_total A.\n# TYPE a_total counter\n").unwrap();
            let line = line.strip_prefix("a_total{why=\"").unwrap();
            let label = line.strip_suffix(&format!("\"}} {count}\n")).unwrap();
            prop_assert_eq!(unescaped(label), Some(text));
        }

        #[test]
        fn any_number_can_be_read_back(real: f64) {
            let text = number(MetricValue::Real(real));
            let read: f64 = text.parse().unwrap();
            prop_assert!(read == real || read.is_nan() && real.is_nan(), "{} is {}", real, text);
        }
    }
}
