//! Arguments within bounds, as settings are: what is added to a clock must not overflow it.

use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::error::Fault;

/// The longest duration that any argument takes: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads a duration.
///
/// # Errors
/// The text is not a duration, or one of more than ten years.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(span) if span <= LONGEST => Ok(span),
        Ok(_) => Err("the most is 3650days".to_owned()),
        Err(_) => Err("write a number and a unit, such as 30s, 15m or 2h".to_owned()),
    }
}

/// An event's id. `otherwise`: how else to choose.
pub(super) fn event_id(otherwise: &'static str) -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(move |id| {
        id.into_string().map_err(|id| format!("{id:?} is not text in UTF-8: {otherwise}"))
    })
}

/// What is chosen between two bounds, the second of which is not among it.
///
/// # Errors
/// Nothing can lie between them.
pub(super) fn in_order<T: PartialOrd + std::fmt::Display>(
    (from, since): (&str, Option<T>),
    (to, until): (&str, Option<T>),
) -> Result<(), Fault> {
    match (since, until) {
        (Some(since), Some(until)) if since >= until => Err(Fault::usage(
            format!("{from} {since} is not before {to} {until}: nothing is between them"),
            format!("exchange them, or leave one out; {to} itself is not among what is chosen"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(span("3650days"), Ok(LONGEST));
        assert_eq!(span("0s"), Ok(Duration::ZERO));
        for wrong in
            ["3651days", "9999999999days", "99999999999999999999s", "1", "", "-1s", "1 day 1"]
        {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn between_bounds_something_can_be() {
        let between = |since, until| in_order(("--since", since), ("--until", until));
        assert_eq!(between(Some(1), Some(2)), Ok(()));
        assert_eq!(between(None, Some(0)), Ok(()));
        assert_eq!(between(Some(9), None), Ok(()));
        for (since, until) in [(2, 1), (1, 1)] {
            let fault = between(Some(since), Some(until)).expect_err("nothing is between them");
            assert!(fault.what.contains("is not before --until"), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn no_text_overflows_a_clock(number in any::<u64>(), unit in "ns|us|ms|s|m|h|days|weeks|months|years|[a-z]{0,3}") {
            for text in [format!("{number}{unit}"), format!("{number}{unit} {number}{unit}"), unit] {
                if let Ok(span) = span(&text) {
                    prop_assert!(span <= LONGEST);
                    prop_assert!(Instant::now().checked_add(span * 2).is_some());
                }
            }
        }
    }
}
