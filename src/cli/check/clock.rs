//! The clock of Postgres against this machine's.

use std::time::Duration;

use jiff::Timestamp;

use crate::slot::Finding;

/// Less than this nobody notices.
const TOLERATED: Duration = Duration::from_secs(2);

/// Postgres said `theirs` at some moment between two looks at our clock.
pub(super) fn finding(before: Timestamp, theirs: Timestamp, after: Timestamp) -> Finding {
    // Only what no delay of the answer explains.
    let ahead = theirs.duration_since(after);
    let behind = before.duration_since(theirs);
    let tolerated = TOLERATED.as_secs_f64();
    let (by, way) = match ahead.as_secs_f64() > behind.as_secs_f64() {
        true => (ahead.as_secs_f64(), "ahead of"),
        false => (behind.as_secs_f64(), "behind"),
    };
    if by <= tolerated {
        return Finding::good("clock-skew", "the clocks of Postgres and of this machine agree");
    }
    let by = crate::text::span(Duration::from_secs(Duration::from_secs_f64(by.round()).as_secs()));
    Finding::warning(
        "clock-skew",
        format!(
            "Postgres' clock is {by} {way} this machine's: rows and marks have Postgres' time, so \
             `replay --since 1h`, `verify` and the times in the log are off by that"
        ),
        "set both clocks by NTP: timedatectl set-ntp true; `chronyc tracking` shows how far one is off",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Severity;

    #[test]
    fn a_slow_answer_is_no_skew() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let severity = |before, theirs, after| finding(at(before), at(theirs), at(after)).severity;
        assert_eq!(severity(100, 100, 100), Severity::Good);
        assert_eq!(severity(100, 129, 130), Severity::Good);
        assert_eq!(severity(100, 102, 100), Severity::Good);
        assert_eq!(severity(100, 103, 100), Severity::Warning);
        assert_eq!(severity(100, 97, 100), Severity::Warning);
        assert!(finding(at(1000), at(100), at(1001)).what.contains("15m behind"));
        assert!(finding(at(100), at(1001), at(101)).what.contains("15m ahead of"));
    }
}
