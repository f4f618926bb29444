//! The Internet checksum (RFC 1071), updated and not computed anew (RFC 1624). All values are in wire bytes as a
//! little- or big-endian machine reads them: the sum does not care (RFC 1071, 2 B).

/// What one hop less of TTL adds to the IPv4 header checksum. TTL is the first byte of its 16-bit word.
pub const HOP: u16 = !u16::from_ne_bytes([1, 0]);

/// Folds carries back into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// What replacing `old` by `new` adds to a checksum: the folded sum of `~old + new` over 16-bit words.
#[inline(always)]
#[must_use]
pub const fn delta(old: [u64; 2], new: [u64; 2]) -> u16 {
    let sum = halves(!old[0]) + halves(!old[1]) + halves(new[0]) + halves(new[1]);
    // Four words of eight bytes: at most 2^35.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    fold(sum as u32)
}

#[inline(always)]
const fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// A checksum field after a change that adds `delta` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn update(field: u16, delta: u16) -> u16 {
    !fold(!field as u32 + delta as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum of bytes, computed from the definition.
    fn whole(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn an_update_agrees_with_the_whole_sum() {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.rotate_left(17)
        };
        for _ in 0..10_000 {
            let (old, new, rest) = ([random(), random()], [random(), random()], random());
            let bytes = |words: [u64; 2]| -> Vec<u8> {
                words.iter().chain([&rest]).flat_map(|w| w.to_ne_bytes()).collect()
            };
            let updated = update(whole(&bytes(old)), delta(old, new));
            assert_eq!(updated, whole(&bytes(new)), "{old:x?} {new:x?}");
        }
    }

    #[test]
    fn the_example_of_rfc_1624_comes_out_right() {
        // RFC 1624, 4: header sum 0xdd2f, a word changes from 0x5555 to 0x3285.
        let be = |n: u16| u64::from(n.to_be());
        assert_eq!(update(0xdd2f_u16.to_be(), delta([be(0x5555), 0], [be(0x3285), 0])), 0);
    }

    #[test]
    fn a_hop_less_of_ttl_is_one_delta() {
        let mut header = [0x45u8, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let before = whole(&header);
        header[8] -= 1;
        assert_eq!(update(before, HOP), whole(&header));
    }
}
