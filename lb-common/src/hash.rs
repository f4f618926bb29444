//! Two hashes. One finds a flow's place in the table and is keyed with a secret of this node, so that nobody
//! outside can aim at a bucket. The other picks a server and is the same on every node of a cluster, so that
//! nodes agree without talking.

/// Odd multiplier (2^64 divided by the golden ratio).
pub const K1: u64 = 0x9e37_79b9_7f4a_7c15;
/// A second odd multiplier, with bits unlike those of [`K1`].
const K2: u64 = 0xd6e8_feb8_6659_fd93;

/// Seed of the steering hash. Part of what nodes must agree on: changing it moves flows.
pub const STEER_SEED: u64 = 0x4c42_4d41_474c_4556;

/// Mixes one word into a running hash.
#[inline(always)]
#[must_use]
pub const fn mix(h: u64, word: u64) -> u64 {
    let x = (h ^ word).wrapping_mul(K1);
    x ^ x >> 32
}

/// Last step: every input bit reaches every output bit.
#[inline(always)]
#[must_use]
pub const fn finish(h: u64) -> u64 {
    let x = h.wrapping_mul(K2);
    x ^ x >> 29
}

/// Sixteen well-mixed bits of a product.
#[inline(always)]
#[must_use]
pub const fn fold_bits(product: u64) -> u32 {
    (product >> 48) as u32
}

/// Hash of an IPv4 flow key. Only its upper half is well mixed, which is where [`crate::flow`] looks; the last
/// step that the lower half would need is left out, because every packet pays for it. One multiplication less, and the
/// ports of a client that counts them up crowd into some buckets.
#[inline(always)]
#[must_use]
pub const fn flow4(seed: u64, addrs: u64, ports: u64) -> u64 {
    mix(mix(seed, addrs), ports).wrapping_mul(K2)
}

/// Hash of an IPv6 flow key, likewise.
#[inline(always)]
#[must_use]
pub const fn flow6(seed: u64, client: [u64; 2], vip: [u64; 2], ports: u64) -> u64 {
    mix(mix(mix(mix(mix(seed, client[0]), client[1]), vip[0]), vip[1]), ports).wrapping_mul(K2)
}

/// Hash of both ends of a flow that picks a server: every bit well mixed.
#[inline(always)]
#[must_use]
pub const fn steer(client: [u64; 2], vip: [u64; 2], ports: u64) -> u64 {
    finish(flow6(STEER_SEED, client, vip, ports))
}

/// Hash of a client address (IPv6, or IPv4 in the first word) for schedulers that look at nothing else.
#[inline(always)]
#[must_use]
pub const fn client(client: [u64; 2]) -> u64 {
    finish(mix(mix(STEER_SEED, client[0]), client[1]))
}

/// Hash of a short byte string, for the identity of a server in a Maglev table. Not for the packet path.
#[must_use]
pub fn bytes(seed: u64, data: &[u8]) -> u64 {
    let mut h = mix(seed, data.len() as u64);
    for chunk in data.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        h = mix(h, u64::from_le_bytes(word));
    }
    finish(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_bit_changes_about_half_of_the_upper_half() {
        let (addrs, ports) = (0x0a00_0001_0a0c_0164, 0x0006_0068_1234);
        let upper = |addrs, ports| (flow4(1, addrs, ports) >> 32) as u32;
        let mut total = 0;
        // Addresses, ports and protocol: 64 and 40 bits.
        for bit in 0..104 {
            let flipped =
                if bit < 64 { upper(addrs ^ 1 << bit, ports) } else { upper(addrs, ports ^ 1 << (bit - 64)) };
            total += (upper(addrs, ports) ^ flipped).count_ones();
        }
        assert!((13 * 104..19 * 104).contains(&total), "{} bits of 32 on average", total / 104);
    }

    #[test]
    fn neighbouring_clients_fill_buckets_evenly() {
        // 65,536 flows of one client over 4,096 buckets: 16 each; a Poisson tail above 40 would be a bad hash.
        let mut buckets = [0u32; 4096];
        for port in 0..=u16::MAX {
            let h = flow4(42, 0x0a00_0001_0a0c_0164, u64::from(port) | 0x6_0068_0000);
            buckets[(h >> 32) as usize & 4095] += 1;
        }
        assert!(*buckets.iter().max().unwrap() < 40);
        assert!(*buckets.iter().min().unwrap() > 1);
    }

    #[test]
    fn consecutive_ports_fill_buckets_as_chance_would() {
        // Eight clients with 6,250 ports each, counted up, over 262,144 buckets: chance leaves e^(-0.19) of them empty.
        let mut buckets = vec![0u8; 1 << 18];
        for client in 0..8u64 {
            for port in 10_000..16_250u16 {
                let ports = u64::from(port.to_be()) | 0x6_0068_0000;
                let h = flow4(42, 0x0a64_a8c0_0000_000a | client << 24, ports);
                buckets[(h >> 32) as usize & ((1 << 18) - 1)] += 1;
            }
        }
        let empty = buckets.iter().filter(|&&n| n == 0).count();
        assert!((214_000..219_500).contains(&empty), "{empty} buckets empty, 216,600 by chance");
    }

    #[test]
    fn flows_of_neighbours_and_their_replies_spread_over_the_table() {
        // 32 neighbours with 2,048 ports each, there and, as NAT's replies have them, back.
        let port = |n: u64| (0x8000 | n & 0x7ff_u64).swap_bytes() >> 48;
        let client = |n: u64| u64::from(u32::from_le_bytes([10, 64, 0, (n >> 11) as u8]));
        let (vip, server) = (0x0909_090a_u64, 0x0102_090a_u64);
        let there = |n| flow4(42, client(n) | vip << 32, port(n) | 0x5000 << 16 | 6 << 32);
        let back = |n| flow4(42, server | client(n) << 32, 0x901f | port(n) << 16 | 6 << 32);
        let back6 = |n| {
            let client = [0xb80d_0120, client(n) << 32];
            flow6(42, [0xb80d_0120, server << 32], client, 0x901f | port(n) << 16 | 6 << 32)
        };
        let used = |hash: &dyn Fn(u64) -> u64| {
            let mut buckets = vec![0u8; 1 << 18];
            (0..65_536).for_each(|n| buckets[(hash(n) >> 32) as usize & ((1 << 18) - 1)] += 1);
            buckets.iter().map(|&count| u32::from(count.min(4))).sum::<u32>()
        };
        for (name, places) in [("there", used(&there)), ("back", used(&back)), ("back, IPv6", used(&back6))] {
            assert!(places > 65_000, "{name}: room for {places} of 65,536 flows");
        }
    }

    #[test]
    fn strings_that_differ_only_in_length_differ() {
        assert_ne!(bytes(0, b"a"), bytes(0, b"a\0"));
    }
}
