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

/// Sum of the 16-bit words of some bytes, an odd last one padded with zero. For headers: at most 64 KiB.
#[inline(always)]
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks_exact(2);
    let odd = pairs.remainder().first().map_or(0, |&last| u32::from(u16::from_ne_bytes([last, 0])));
    pairs.fold(odd, |sum, pair| sum + u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
}

/// The checksum field of bytes that are all there, the field itself being zero.
#[inline(always)]
#[must_use]
pub fn whole(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// What a pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) adds to a sum. `len` is that of the transport packet.
#[inline(always)]
#[must_use]
pub const fn pseudo(src: [u64; 2], dst: [u64; 2], proto: u8, len: u16) -> u32 {
    delta([u64::MAX, u64::MAX], src) as u32
        + delta([u64::MAX, u64::MAX], dst) as u32
        + (proto as u16).to_be() as u32
        + len.to_be() as u32
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

    #[test]
    fn a_whole_checksum_is_that_of_rfc_1071() {
        // RFC 1071, 3: the sum of these words is 0xddf2.
        assert_eq!(whole(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2_u16.to_be());
        assert_eq!(whole(&[0xab]), !0xab00_u16.to_be());
    }

    #[test]
    fn a_pseudo_header_counts_like_its_bytes() {
        // RFC 793's: 10.0.0.1 to 10.0.0.2, TCP, 20 bytes.
        let bytes = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 20];
        let word = |octets| u64::from(u32::from_ne_bytes(octets));
        let pseudo = pseudo([word([10, 0, 0, 1]), 0], [word([10, 0, 0, 2]), 0], 6, 20);
        assert_eq!(!fold(pseudo), whole(&bytes));
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
