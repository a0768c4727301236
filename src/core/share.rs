//! Whose share of an outbox an event is, that is spread over several relays.
//!
//! The share of an aggregate is the rest of a hash of its id, whatever its type. The hash is Postgres' own
//! `hashtextextended`, so that one expression says the same in the row filter of a publication, in each
//! statement about rows, and here, where messages are looked at that no filter keeps back. Of servers that hash
//! otherwise (another byte order, an encoding other than UTF-8) `sql/check/share_hash.sql` tells.
//!
//! Events without an aggregate's id keep no order; all of them are in one share.

use crate::config::Share;

/// Postgres' `hashtextextended(text, 0)` of a text in UTF-8: Bob Jenkins' lookup3.
pub(crate) fn hash(text: &[u8]) -> u64 {
    // Longer than 4 GiB no text is.
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let start = 0x9e37_79b9_u32.wrapping_add(length).wrapping_add(3_923_095);
    let (mut a, mut b, mut c) = (start, start, start);
    let word =
        |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
    let (blocks, tail) = text.as_chunks::<12>();
    for block in blocks {
        let (first, rest) = block.split_at(4);
        let (second, third) = rest.split_at(4);
        a = a.wrapping_add(word(first));
        b = b.wrapping_add(word(second));
        c = c.wrapping_add(word(third));
        (a, b, c) = mix(a, b, c);
    }
    let (first, rest) = tail.split_at(tail.len().min(4));
    let (second, third) = rest.split_at(rest.len().min(4));
    a = a.wrapping_add(word(first));
    b = b.wrapping_add(word(second));
    // Its lowest byte is the length's.
    c = c.wrapping_add(word(third) << 8);
    let (b, c) = last(a, b, c);
    u64::from(b) << 32 | u64::from(c)
}

fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    let step = |x: &mut u32, y: &mut u32, z: u32, bits: u32| {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
        *y = y.wrapping_add(z);
    };
    step(&mut a, &mut c, b, 4);
    step(&mut b, &mut a, c, 6);
    step(&mut c, &mut b, a, 8);
    step(&mut a, &mut c, b, 16);
    step(&mut b, &mut a, c, 19);
    step(&mut c, &mut b, a, 4);
    (a, b, c)
}

fn last(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32) {
    let step = |x: &mut u32, y: u32, bits: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    (b, c)
}

/// Which of so many shares an aggregate is of, whose id has this text.
pub(crate) fn number(aggregate_id: &[u8], of: u16) -> u16 {
    let hash = hash(aggregate_id) & i64::MAX.cast_unsigned();
    u16::try_from(hash % u64::from(of.max(1))).unwrap_or(0)
}

/// Whether it is of this share.
pub(crate) fn has(share: Share, aggregate_id: &[u8]) -> bool {
    number(aggregate_id, share.of) == share.number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Postgres 15: `SELECT hashtextextended(…, 0)`.
    #[test]
    fn it_is_that_of_postgres() {
        for (text, wanted) in [
            ("", -6_939_563_903_564_495_251),
            ("a", 3_591_986_179_850_072_241),
            ("order-7", -8_492_180_005_584_672_537),
            ("ünï", 2_451_172_459_264_621_116),
            ("0123456789ab", -300_982_144_080_685_429),
            ("0190a7c2-5f6e-7000-8000-000000000001", 8_193_392_508_624_171_362),
        ] {
            assert_eq!(hash(text.as_bytes()).cast_signed(), wanted, "{text}");
        }
    }

    #[test]
    fn each_is_of_one_share() {
        for of in [1, 2, 3, 64] {
            let shares = (0..of).map(|number| Share { number, of });
            for id in 0..200 {
                let id = id.to_string();
                let count = shares.clone().filter(|share| has(*share, id.as_bytes())).count();
                assert_eq!(count, 1, "{id} of {of}");
            }
        }
    }
}
