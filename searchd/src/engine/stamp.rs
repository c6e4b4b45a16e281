//! Hybrid logical clock stamps (Kulkarni et al., 2014): what decides between two writes of one register.
//!
//! A stamp orders by physical time, then a counter, then who wrote it, so no two writes anywhere compare equal. The
//! clock reading is an argument: nothing here asks for the time.

use std::collections::HashSet;
use std::sync::Arc;

use nearfield_proto::log::v1 as log;

/// The instance that admitted a write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Compared in byte order.
    pub region: Box<str>,
    pub writer: u64,
}

/// When and where a write was admitted. `Ord` is "wins over".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Unix time in nanoseconds.
    pub physical: u64,
    pub logical: u32,
    pub site: Arc<Site>,
}

impl Stamp {
    pub fn to_message(&self) -> log::Stamp {
        log::Stamp {
            physical: self.physical,
            logical: self.logical,
            region: self.site.region.to_string(),
            writer: self.site.writer,
        }
    }
}

/// One allocation for each site, however many stamps name it.
#[derive(Clone, Debug, Default)]
pub struct Sites(HashSet<Arc<Site>>);

impl Sites {
    pub fn site(&mut self, region: &str, writer: u64) -> Arc<Site> {
        let wanted = Site { region: region.into(), writer };
        if let Some(known) = self.0.get(&wanted) {
            return known.clone();
        }
        let site = Arc::new(wanted);
        self.0.insert(site.clone());
        site
    }

    pub fn stamp(&mut self, message: &log::Stamp) -> Stamp {
        Stamp { physical: message.physical, logical: message.logical, site: self.site(&message.region, message.writer) }
    }
}

/// Issues stamps that grow, and stay ahead of every stamp seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct HybridClock {
    physical: u64,
    logical: u32,
}

impl HybridClock {
    /// The next (physical, logical) pair; `now` is Unix time in nanoseconds and may stand still or go backwards.
    pub fn tick(&mut self, now: u64) -> (u64, u32) {
        if now > self.physical {
            (self.physical, self.logical) = (now, 0);
        } else if let Some(next) = self.logical.checked_add(1) {
            self.logical = next;
        } else {
            (self.physical, self.logical) = (self.physical + 1, 0);
        }
        (self.physical, self.logical)
    }

    /// Later stamps of this clock win over `stamp`.
    pub fn observe(&mut self, stamp: &log::Stamp) {
        let seen = (stamp.physical, stamp.logical);
        if seen > (self.physical, self.logical) {
            (self.physical, self.logical) = seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_grows_while_time_stands_still_or_goes_back() {
        let mut clock = HybridClock::default();
        let first = clock.tick(100);
        let second = clock.tick(100);
        let third = clock.tick(50);
        assert!(first < second && second < third);
        clock.observe(&log::Stamp { physical: 900, logical: 7, ..Default::default() });
        assert!(clock.tick(101) > (900, 7));
    }

    #[test]
    fn stamps_order_by_time_then_counter_then_region_then_writer() {
        let mut sites = Sites::default();
        let mut stamp = |physical, logical, region: &str, writer| {
            sites.stamp(&log::Stamp { physical, logical, region: region.into(), writer })
        };
        let ascending =
            [stamp(1, 9, "b", 9), stamp(2, 0, "b", 9), stamp(2, 1, "a", 9), stamp(2, 1, "b", 1), stamp(2, 1, "b", 2)];
        assert!(ascending.is_sorted());
    }
}
