//! XXH64: a hash that is the same in every release and on every machine, so that keys keep their
//! backends.
//!
//! Written here and not taken from a crate, because keys would move if a crate changed its seed, its
//! reading of byte order or its version: the published vectors are the test. `std`'s hasher is no
//! choice for the same reason, as it may change with each release of Rust.
//!
//! A hash table's resistance against chosen keys is no aim: a client that chooses keys chooses a
//! backend, and bounded loads limit what it can do there.

/// Returns the XXH64 hash of these bytes.
pub(super) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let (stripes, mut rest) = bytes.split_at(bytes.len() / 32 * 32);
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(P5)
    } else {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        for stripe in stripes.chunks_exact(32) {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, word64(word));
            }
        }
        // Only inputs of 32 bytes and more have lanes; most keys are shorter.
        let mixed = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        lanes.iter().fold(mixed, |hash, &lane| {
            (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4)
        })
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((word, left)) = rest.split_first_chunk() {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = left;
    }
    if let Some((word, left)) = rest.split_first_chunk() {
        let word = u32::from_le_bytes(*word);
        hash ^= u64::from(word).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = left;
    }
    for &byte in rest {
        hash ^= u64::from(byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    // The final avalanche: each bit of the input changes half of the bits of the result.
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(P2);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(P3);
    hash ^ hash >> 32
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

fn word64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        for (text, seed, hash) in [
            ("", 0, 0xEF46_DB37_51D8_E999),
            ("a", 0, 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0, 0x44BC_2CF5_AD77_0999),
            ("xxhash", 0, 0x32DD_3895_2C4B_C720),
            ("xxhash", 20_141_025, 0xB559_B98D_844E_0635),
            (
                "Nobody inspects the spammish repetition",
                0,
                0xFBCE_A83C_8A37_8BF1,
            ),
            (
                "Call me Ishmael. Some years ago--never mind how long precisely-",
                0,
                0x02A2_E854_70D6_FD96,
            ),
        ] {
            assert_eq!(xxh64(text.as_bytes(), seed), hash, "{text:?}");
        }
    }
}
