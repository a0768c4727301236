//! The W3C's trace context, as a row carries it.

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// The longest `tracestate` that everybody has to pass on.
const STATE_BYTES: usize = 512;
/// Of the flags: the one who began the trace records it.
const SAMPLED: u8 = 1;

/// The span that an event was written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its id.
    pub span_id: [u8; 8],
    /// The trace's flags.
    pub flags: u8,
    /// What tracers add, as it stands.
    pub state: String,
}

impl Context {
    /// Reads a `traceparent` of version 00; `None` where it is not to the letter, as the
    /// standard asks for. Of later versions is read what version 00 has.
    pub(crate) fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let mut parts = traceparent.splitn(5, '-');
        let [version, trace_id, span_id, flags] =
            [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let [version] = unhex(version)?;
        // Only versions that are not known yet may have more.
        if version == 0xFF || (version == 0 && traceparent.len() != LENGTH) {
            return None;
        }
        let (trace_id, span_id, [flags]) = (unhex(trace_id)?, unhex(span_id)?, unhex(flags)?);
        let is_valid = trace_id != [0; 16] && span_id != [0; 8];
        let state = tracestate.filter(|state| state.len() <= STATE_BYTES).unwrap_or_default();
        let state = state.to_owned();
        is_valid.then_some(Self { trace_id, span_id, flags, state })
    }

    /// The one who began the trace records it, so we do.
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Lower-case hexadecimal of exactly so many bytes.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_standards_own_example() {
        let context = Context::read(GOOD, Some("congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(context.span_id[6..], [0x33, 0x31]);
        assert_eq!((context.flags, context.state.as_str()), (1, "congo=t61rcWkgMzE"));
        assert!(context.is_sampled());
        let unsampled = GOOD.replace("-01", "-02");
        assert!(!Context::read(&unsampled, None).unwrap().is_sampled());
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(Context::read(&later, None).is_some());
        assert!(Context::read(&format!("{later}-what-the-future-brings"), None).is_some());
        assert!(Context::read(&format!("{later}."), None).is_none());
    }

    #[test]
    fn what_is_not_to_the_letter_is_none() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD} "),
            &format!("{GOOD}-"),
            &format!("{GOOD}-01"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace(
                "0af7651916cd43dd8448eb211c80319c-b",
                "0af7651916cd43dd8448eb211c80319-cb",
            ),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(Context::read(bad, None), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_was_written(trace: [u8; 16], span: [u8; 8], flags: u8) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let text = format!("00-{}-{}-{flags:02x}", hex(&trace), hex(&span));
            let read = Context::read(&text, None).unwrap();
            prop_assert_eq!((read.trace_id, read.span_id, read.flags), (trace, span, flags));
            // One character of another kind anywhere makes it none of version 00.
            for at in 0..text.len() {
                let mut broken = text.clone();
                broken.replace_range(at..=at, "x");
                prop_assert_eq!(Context::read(&broken, None), None);
            }
        }

        #[test]
        fn nothing_is_too_wild(text in "[0-9a-fA-F-]{0,60}|.{0,60}") {
            let _ = Context::read(&text, None);
        }
    }
}
