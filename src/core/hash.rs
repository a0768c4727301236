//! The hash that spreads events over queues by a key of theirs.
//!
//! It never changes: where an aggregate goes must be the same after a restart, an upgrade, and on every relay.
//! It is the one by which all clients of RabbitMQ's super streams choose a partition, MurmurHash3 of 32
//! bits with their seed.

const SEED: u32 = 104_729;

/// The hash of a text.
pub(crate) fn murmur3(text: &[u8]) -> u32 {
    let mix =
        |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = SEED;
    let (blocks, tail) = text.as_chunks::<4>();
    for block in blocks {
        hash ^= mix(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    if !tail.is_empty() {
        let of_tail = tail.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        hash ^= mix(of_tail);
    }
    // Bytes beyond 4 GiB do not come in one column.
    hash ^= u32::try_from(text.len()).unwrap_or(u32::MAX);
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Python's mmh3, with the same seed.
    #[test]
    fn it_is_that_of_super_streams() {
        for (text, hash) in [
            ("", 3_329_588_566),
            ("a", 1_086_686_554),
            ("ab", 398_604_456),
            ("abc", 3_409_700_625),
            ("hello", 1_321_743_225),
            ("order-7", 2_168_265_435),
            ("brand new key", 1_543_870_368),
            ("ünï", 2_643_044_908),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }
}
