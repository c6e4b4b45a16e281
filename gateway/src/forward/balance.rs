//! Maglev hashing (Eisenbud et al., NSDI 2016): a table from hash to endpoint that every gateway builds alike.
//!
//! The table is built from the endpoints' sorted ids and weights alone. An endpoint that is down is skipped at look-up,
//! so a flap moves only that endpoint's keys, and moves them back.

use std::net::IpAddr;

/// Entries of a table: a prime, about a hundred times the endpoints that one region may have.
pub const ENTRIES: usize = 65_537;

/// Endpoints that one table may have: the instances of the largest region.
pub const ENDPOINTS_MAX: usize = 5_000;

/// The greatest weight of one endpoint.
pub const WEIGHT_MAX: u32 = 1_000;

/// A look-up table over endpoints `0..n`.
#[derive(Clone, Debug)]
pub struct Table {
    /// The endpoint of each entry; empty when there is no endpoint.
    entries: Vec<u16>,
}

impl Table {
    /// Builds the table for endpoints given by (id, weight). The order of `endpoints` numbers them, and does not
    /// influence which keys an id gets.
    pub fn build(endpoints: &[(&str, u32)]) -> Self {
        if endpoints.is_empty() {
            return Self { entries: Vec::new() };
        }
        let mut order: Vec<u16> = (0..endpoints.len()).map(|i| u16::try_from(i).expect("a few endpoints")).collect();
        order.sort_by_key(|&i| endpoints[usize::from(i)].0);
        let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let mut turns: Vec<Turn> = order.iter().map(|&i| Turn::new(i, endpoints[usize::from(i)])).collect();

        let mut entries = vec![u16::MAX; ENTRIES];
        let mut filled = 0;
        loop {
            for turn in &mut turns {
                // Each round an endpoint earns its share of one entry; the heaviest earns a whole one.
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                let slot = turn.next_free(&entries);
                entries[slot] = turn.endpoint;
                filled += 1;
                if filled == ENTRIES {
                    return Self { entries };
                }
            }
        }
    }

    /// The first endpoint for `hash` that `usable` admits: the entry's own, or else the next usable one behind it.
    pub fn pick(&self, hash: u64, mut usable: impl FnMut(usize) -> bool) -> Option<usize> {
        let start = usize::try_from(hash % ENTRIES as u64).expect("less than the number of entries");
        let mut refused = u16::MAX;
        let around = self.entries.iter().skip(start).chain(self.entries.iter().take(start));
        for &endpoint in around {
            // Most neighbours differ; asking the same one twice in a row would be idle.
            if endpoint == refused {
                continue;
            }
            if usable(usize::from(endpoint)) {
                return Some(usize::from(endpoint));
            }
            refused = endpoint;
        }
        None
    }
}

/// One endpoint's walk through its own permutation of the entries.
struct Turn {
    endpoint: u16,
    weight: u32,
    credit: u32,
    next: usize,
    skip: usize,
}

impl Turn {
    fn new(endpoint: u16, (id, weight): (&str, u32)) -> Self {
        let digest = blake3::hash(id.as_bytes());
        let word = |at: usize| u64::from_le_bytes(digest.as_bytes()[at..at + 8].try_into().expect("eight bytes"));
        let below = |word: u64, bound: usize| usize::try_from(word % bound as u64).expect("less than a usize");
        Self {
            endpoint,
            weight: weight.max(1),
            credit: 0,
            next: below(word(0), ENTRIES),
            skip: below(word(8), ENTRIES - 1) + 1,
        }
    }

    fn next_free(&mut self, entries: &[u16]) -> usize {
        loop {
            let slot = self.next;
            self.next = (self.next + self.skip) % ENTRIES;
            if entries[slot] == u16::MAX {
                return slot;
            }
        }
    }
}

/// What calls that belong to one endpoint have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    hash: u64,
    may_spill: bool,
}

impl Key {
    /// A client's reads: by its IPv4 address, or the /64 of its IPv6 address, which is one customer. They may go to
    /// another endpoint when theirs is loaded.
    pub fn of_client(ip: IpAddr) -> Self {
        let hash = match ip {
            IpAddr::V4(ip) => hash(&[b"4", &ip.octets()]),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => hash(&[b"4", &ip.octets()]),
                None => hash(&[b"6", &ip.octets()[..8]]),
            },
        };
        Self { hash, may_spill: true }
    }

    /// The reads of a client whose address is not known.
    pub fn of_nobody() -> Self {
        Self { hash: 0, may_spill: true }
    }

    /// A collection's writes, which all go to one endpoint while it is well.
    pub fn of_collection(tenant: &str, collection: &str) -> Self {
        Self { hash: hash(&[tenant.as_bytes(), collection.as_bytes()]), may_spill: false }
    }

    pub(crate) fn hash(self) -> u64 {
        self.hash
    }

    pub(crate) fn may_spill(self) -> bool {
        self.may_spill
    }

    /// Is it among this share (0 to 1) of all keys? The same keys are every time, and those of a smaller share too.
    pub(crate) fn is_among(self, share: f64) -> bool {
        self.rank() < share
    }

    /// Its place among all keys, 0 to 1, the same every time.
    pub(crate) fn rank(self) -> f64 {
        // The upper bits: the table uses the remainder.
        (self.hash >> 32) as f64 / 2f64.powi(32)
    }
}

/// The same on every gateway: a keyless hash of length-prefixed parts.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(table: &Table, endpoints: usize) -> Vec<usize> {
        let mut shares = vec![0; endpoints];
        for hash in 0..ENTRIES as u64 {
            shares[table.pick(hash, |_| true).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn equal_weights_share_alike() {
        let ids: Vec<String> = (0..15).map(|i| format!("http://searchd-{i}:50051")).collect();
        let endpoints: Vec<(&str, u32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
        for share in shares(&Table::build(&endpoints), 15) {
            assert!((4300..=4440).contains(&share), "{share}");
        }
    }

    #[test]
    fn weights_set_the_shares() {
        let shares = shares(&Table::build(&[("a", 1), ("b", 3)]), 2);
        assert!((16_000..=16_700).contains(&shares[0]), "{shares:?}");
    }

    /// The names that the entries belong to, in one hash.
    fn digest(ids: &[String]) -> String {
        let endpoints: Vec<(&str, u32)> =
            ids.iter().zip(1..).map(|(id, weight)| (id.as_str(), weight % 4 + 1)).collect();
        let weighted =
            if std::env::var_os(REVERSED).is_some() { endpoints.into_iter().rev().collect() } else { endpoints };
        let table = Table::build(&weighted);
        let mut hasher = blake3::Hasher::new();
        for hash in 0..ENTRIES as u64 {
            hasher.update(weighted[table.pick(hash, |_| true).unwrap()].0.as_bytes());
        }
        hasher.finalize().to_string()
    }

    const REVERSED: &str = "NEARFIELD_TEST_REVERSED";

    #[test]
    fn every_process_builds_the_same_table() {
        let ids: Vec<String> = (0..40).map(|i| format!("http://10.0.0.{i}:50051")).collect();
        let here = digest(&ids);
        if std::env::var_os(REVERSED).is_some() {
            println!("digest {here}");
            return;
        }
        for _ in 0..2 {
            let name = "forward::balance::tests::every_process_builds_the_same_table";
            let mut other = std::process::Command::new(std::env::current_exe().unwrap());
            let output = other.args(["--exact", name, "--nocapture"]).env(REVERSED, "1").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains(&format!("digest {here}")), "{text}");
        }
    }

    #[test]
    fn losing_one_of_fifteen_moves_few_other_keys() {
        let ids: Vec<String> = (0..15).map(|i| format!("searchd-{i}")).collect();
        let all: Vec<(&str, u32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
        let (before, after) = (Table::build(&all), Table::build(&all[..14]));
        let moved = (0..ENTRIES as u64)
            .filter(|&hash| {
                let owner = before.pick(hash, |_| true).unwrap();
                owner != 14 && after.pick(hash, |_| true).unwrap() != owner
            })
            .count();
        assert!(moved < ENTRIES / 50, "{moved}");
    }

    #[test]
    fn about_the_share_of_clients_may_be_spared_and_no_write() {
        let clients = (0..10_000u32).map(|i| Key::of_client(std::net::Ipv4Addr::from(i).into()));
        let spared = clients.filter(|key| key.may_spill() && key.is_among(0.5)).count();
        assert!((4_700..5_300).contains(&spared), "{spared}");
        assert!(!Key::of_collection("t", "c").may_spill());
    }

    #[test]
    fn an_empty_table_picks_nobody() {
        assert_eq!(Table::build(&[]).pick(7, |_| true), None);
    }

    #[test]
    fn one_ipv6_customer_has_one_key() {
        let key = |text: &str| Key::of_client(text.parse().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn the_table_does_not_depend_on_the_order(n in 1usize..12, rotation in 0usize..12, hash: u64) {
            let ids: Vec<String> = (0..n).map(|i| format!("searchd-{i}")).collect();
            let mut endpoints: Vec<(&str, u32)> = ids.iter().map(|id| (id.as_str(), 2)).collect();
            let straight = Table::build(&endpoints).pick(hash, |_| true).map(|i| endpoints[i].0);
            endpoints.rotate_left(rotation % n);
            let turned = Table::build(&endpoints).pick(hash, |_| true).map(|i| endpoints[i].0);
            prop_assert_eq!(straight, turned);
        }

        #[test]
        fn a_flap_moves_only_the_flapping_endpoints_keys(hash: u64, down in 0usize..5) {
            let table = Table::build(&[("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1)]);
            let before = table.pick(hash, |_| true).unwrap();
            let during = table.pick(hash, |i| i != down).unwrap();
            prop_assert!(during != down);
            if before != down {
                prop_assert_eq!(before, during);
            }
        }
    }
}
