//! Which partitions a table needs, and what they are called. Times are seconds since 1970, UTC.

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::config::PartitionSpan;

/// From when on, and before when.
pub(crate) type Bounds = (i64, i64);

/// The comment that says that pgoutbox made a partition. A name says nothing: anyone who made it may
/// have chosen the same.
pub(crate) const MADE: &str = "pgoutbox made this partition";

/// Where the span that holds this moment begins.
pub(crate) fn floor(span: PartitionSpan, at: i64) -> i64 {
    let time = civil(at);
    let day = time.date();
    let start = match span {
        PartitionSpan::Hour => day.at(time.hour(), 0, 0, 0),
        PartitionSpan::Day => midnight(day),
        PartitionSpan::Week => {
            let back = i64::from(day.weekday().since(Weekday::Monday));
            midnight(day.checked_sub(back.days()).unwrap_or(day))
        }
        PartitionSpan::Month => midnight(day.first_of_month()),
    };
    seconds(start)
}

/// Where the span that holds this moment ends.
pub(crate) fn ceiling(span: PartitionSpan, at: i64) -> i64 {
    let start = civil(floor(span, at));
    let end = match span {
        PartitionSpan::Hour => start.checked_add(1.hour()),
        PartitionSpan::Day => start.checked_add(1.day()),
        PartitionSpan::Week => start.checked_add(1.week()),
        PartitionSpan::Month => start.checked_add(1.month()),
    };
    seconds(end.unwrap_or(DateTime::MAX))
}

/// The partitions that are missing: for the span of now and so many after it, less what is
/// there already. What is past is past: its rows are in the default partition.
pub(crate) fn missing(
    span: PartitionSpan,
    now: i64,
    ahead: usize,
    there: &[(Option<i64>, Option<i64>)],
) -> Vec<Bounds> {
    let mut there: Vec<Bounds> = there
        .iter()
        .map(|(lower, upper)| (lower.unwrap_or(i64::MIN), upper.unwrap_or(i64::MAX)))
        .collect();
    there.sort_unstable();
    let mut missing = Vec::new();
    let mut start = floor(span, now);
    for _ in 0..=ahead {
        let end = ceiling(span, start);
        let mut from = start;
        for (lower, upper) in there.iter().filter(|(lower, upper)| *lower < end && *upper > start) {
            if *lower > from {
                missing.push((from, *lower));
            }
            from = from.max(*upper);
        }
        if from < end {
            missing.push((from, end));
        }
        start = end;
    }
    missing.retain(|(from, to)| *to > now && from < to);
    missing
}

/// What a partition is called: it says who made it, of what span and from when on.
pub(crate) fn name(table: &str, span: PartitionSpan, start: i64) -> String {
    let time = civil(start);
    let suffix = match span {
        PartitionSpan::Hour => time.strftime("_h%Y%m%d%H").to_string(),
        PartitionSpan::Day => time.strftime("_d%Y%m%d").to_string(),
        PartitionSpan::Week => time.strftime("_w%Y%m%d").to_string(),
        PartitionSpan::Month => time.strftime("_m%Y%m%d").to_string(),
    };
    format!("{}{suffix}", stem(table))
}

/// The default partition's name.
pub(crate) fn default_name(table: &str) -> String {
    format!("{}_default", stem(table))
}

/// The span that a partition's name speaks of; `None` where pgoutbox did not give it.
pub(crate) fn span_of(table: &str, name: &str) -> Option<PartitionSpan> {
    let suffix = name.strip_prefix(stem(table))?.strip_prefix('_')?;
    let (span, digits) = [
        ('h', PartitionSpan::Hour, 10),
        ('d', PartitionSpan::Day, 8),
        ('w', PartitionSpan::Week, 8),
        ('m', PartitionSpan::Month, 8),
    ]
    .into_iter()
    .find_map(|(letter, span, length)| {
        let digits = suffix.strip_prefix(letter)?;
        (digits.len() == length).then_some((span, digits))
    })?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(span)
}

/// A moment as a bound in SQL.
pub(crate) fn bound(at: i64) -> String {
    civil(at).strftime("%Y-%m-%d %H:%M:%S+00").to_string()
}

/// As much of the table's name as leaves room for the rest within 63 bytes.
fn stem(table: &str) -> &str {
    let mut end = table.len().min(50);
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    table.get(..end).unwrap_or(table)
}

fn civil(at: i64) -> DateTime {
    let far = if at < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(at).unwrap_or(far).to_zoned(TimeZone::UTC).datetime()
}

fn midnight(day: Date) -> DateTime {
    day.at(0, 0, 0, 0)
}

fn seconds(time: DateTime) -> i64 {
    time.to_zoned(TimeZone::UTC).map_or(i64::MAX, |zoned| zoned.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPANS: [PartitionSpan; 4] =
        [PartitionSpan::Hour, PartitionSpan::Day, PartitionSpan::Week, PartitionSpan::Month];

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn spans_follow_the_calendar() {
        let now = at("2026-11-22T13:45:01Z");
        let of = |span| (bound(floor(span, now)), bound(ceiling(span, now)), name("o", span, now));
        let is = |span, from: &str, to: &str, name: &str| {
            assert_eq!(
                of(span),
                (format!("{from}:00:00+00"), format!("{to}:00:00+00"), name.into())
            );
        };
        is(PartitionSpan::Hour, "2026-11-22 13", "2026-11-22 14", "o_h2026112213");
        is(PartitionSpan::Day, "2026-11-22 00", "2026-11-23 00", "o_d20261122");
        is(PartitionSpan::Week, "2026-11-16 00", "2026-11-23 00", "o_w20261122");
        is(PartitionSpan::Month, "2026-11-01 00", "2026-12-01 00", "o_m20261122");
    }

    #[test]
    fn a_span_that_changes_goes_on_where_the_last_partition_ends() {
        let days = [(Some(at("2026-11-20T00:00:00Z")), Some(at("2026-11-25T00:00:00Z")))];
        let missing = missing(PartitionSpan::Month, at("2026-11-22T00:00:00Z"), 1, &days);
        let shown: Vec<_> = missing.iter().map(|(from, to)| (bound(*from), bound(*to))).collect();
        let days =
            |from: &str, to: &str| (format!("{from} 00:00:00+00"), format!("{to} 00:00:00+00"));
        assert_eq!(shown, [days("2026-11-25", "2026-12-01"), days("2026-12-01", "2027-01-01")]);
    }

    #[test]
    fn only_our_own_names_are_ours() {
        for name in ["o_p20261122", "o_default", "o_d2026", "x_d20261122", "o_d2026112x", "o"] {
            assert_eq!(span_of("o", name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_was_missing_is_there_then(
            now in 0_i64..4_000_000_000,
            span in 0_usize..4,
            other in 0_usize..4,
            ahead in 0_usize..5,
            before in 0_usize..5,
        ) {
            let (span, other) = (SPANS[span], SPANS[other]);
            let mut there: Vec<_> = missing(other, now, before, &[])
                .into_iter().map(|(from, to)| (Some(from), Some(to))).collect();
            let new = missing(span, now, ahead, &there);
            for (from, to) in &new {
                // None overlaps what is there.
                prop_assert!(there.iter().all(|(l, u)| l.unwrap() >= *to || u.unwrap() <= *from));
                there.push((Some(*from), Some(*to)));
            }
            prop_assert!(missing(span, now, ahead, &there).is_empty());
            prop_assert!(there.iter().any(|(l, u)| l.unwrap() <= now && now < u.unwrap()));
        }

        #[test]
        fn names_say_their_span(at in 0_i64..4_000_000_000, span in 0_usize..4, table in "\\PC{1,63}") {
            let name = name(&table, SPANS[span], at);
            prop_assert!(name.len() <= 63);
            prop_assert_eq!(span_of(&table, &name), Some(SPANS[span]));
        }
    }
}
