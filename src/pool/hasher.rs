//! A fast hasher for tables whose keys no client chooses.
//!
//! The same idea as rustc's FxHash. It is written here because it is twenty lines, and because the
//! argument for it (below) holds for these keys only, and must be made again for any other map.

use std::hash::{BuildHasherDefault, Hasher};

/// The builder of [`IdHasher`]s for a hash map.
pub(crate) type BuildIdHasher = BuildHasherDefault<IdHasher>;

/// A hasher that multiplies eight bytes at a time, at a tenth of the standard hasher's cost.
///
/// The standard hasher has a secret, which guards against keys that are made to collide. The keys here
/// need no guard: ids come from the operator, and tokens of sticky cookies are a keyed hash, which a
/// client can look up but not insert.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((word, after)) = rest.split_first_chunk() {
            self.write_u64(u64::from_le_bytes(*word));
            rest = after;
        }
        // Up to seven bytes. That "a" and "\0a" give the same word does no harm: a map compares keys
        // as well.
        if !rest.is_empty() {
            let last = rest.iter().fold(0, |all, &b| all << 8 | u64::from(b));
            self.write_u64(last);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        // The high half of a product depends on all bits, so it becomes the low half of the next.
        self.0 = (self.0 ^ value).wrapping_mul(FACTOR).rotate_left(32);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        // A hash map reads both ends of the hash.
        self.0 ^ self.0 >> 32
    }
}

/// Odd, and without a pattern: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        hash::{BuildHasher, Hash},
    };

    use super::*;

    fn hash(key: impl Hash) -> u64 {
        BuildIdHasher::default().hash_one(key)
    }

    #[test]
    fn numbered_ids_spread_over_the_table() {
        // As a table of twice that many slots reads the hashes, and its seven control bits of each.
        let count = 10_000;
        let ids = |i: usize| format!("web-{i:05}.eu-west-1.shop.example:8080");
        let names = |i: usize| format!("b{i}");
        for make in [&ids as &dyn Fn(usize) -> String, &names] {
            let hashes: Vec<_> = (0..count).map(|i| hash(make(i).as_str())).collect();
            let low: HashSet<_> = hashes.iter().map(|h| h % 32_768).collect();
            let high: HashSet<_> = hashes.iter().map(|h| h >> 57).collect();
            // 10,000 random hashes would hit 8,620 of 32,768 slots.
            assert!(low.len() > 8_000, "{} slots", low.len());
            assert_eq!(high.len(), 128);
        }
    }

    #[test]
    fn each_byte_and_its_position_count() {
        let base = hash("abcdefghijk");
        for other in ["abcdefghijK", "Abcdefghijk", "abcdefgh", "ijkabcdefgh", ""] {
            assert_ne!(hash(other), base, "{other}");
        }
    }
}
