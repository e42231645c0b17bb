//! Places: how the endpoints of a service are spread over localities and priorities for somebody who calls from a place of his own.
//!
//! Lives here: the rule, on plain numbers. Does not: messages (`endpoints`), which endpoints there are.
//! A caller's own zone comes first, then its region, then the rest; who does not say where he is has one level. gRPC clients do not spread load
//! over priorities by health (client feature `envoy.lb.does_not_support_overprovisioning`), so the share that a level cannot carry is moved here: a
//! level carries 1.4 times the part of it that serves, at most everything, and the next level gets the rest. Levels that share calls become one
//! priority with weights that say the shares; those behind them follow as further priorities, for when none of the first can be reached.
//! Invariants: priorities are 0, 1, 2 …; a pair of locality and priority comes once; weights are 1 or more and their sum fits 32 bits.

use std::collections::BTreeMap;

use weft_model::Locality;

/// What a level carries before its neighbours help: with 1.4, until 29 % of it are gone.
const OVERPROVISIONING: f64 = 1.4;
/// Sum that shares are expressed in; fine enough for one of a thousand localities to be seen.
const SHARES: f64 = 1_000_000.0;

/// The instances of one locality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Population {
    /// Sum of the weights of those that take calls.
    pub(super) serving: u64,
    /// The same of all that are meant to: those that serve, fail their check or crashed.
    pub(super) meant: u64,
}

/// Where calls to one locality rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rank {
    pub(super) priority: u32,
    pub(super) weight: u32,
}

/// Returns the rank of each locality in which somebody serves.
pub(super) fn rank(populations: &BTreeMap<Locality, Population>, from: &Locality) -> BTreeMap<Locality, Rank> {
    let mut levels: [Level<'_>; 3] = Default::default();
    for (locality, population) in populations {
        levels[level(from, locality)].add(locality, *population);
    }
    let levels: Vec<Level<'_>> = levels.into_iter().filter(|it| it.serving > 0).collect();
    let mut ranks = BTreeMap::new();
    let sharing = share(&levels);
    for (index, level) in levels.iter().enumerate() {
        let priority = index.saturating_sub(sharing.len() - 1);
        let scale = match sharing.get(index) {
            Some(share) if sharing.len() > 1 => share * SHARES / level.serving as f64,
            _ => fitting(level.serving),
        };
        for (locality, serving) in &level.localities {
            let weight = (*serving as f64 * scale).round().max(1.0) as u32;
            ranks.insert(Locality::clone(locality), Rank { priority: priority as u32, weight });
        }
    }
    ranks
}

#[derive(Debug, Default)]
struct Level<'a> {
    localities: Vec<(&'a Locality, u64)>,
    serving: u64,
    meant: u64,
}

impl<'a> Level<'a> {
    fn add(&mut self, locality: &'a Locality, population: Population) {
        self.meant += population.meant;
        self.serving += population.serving;
        if population.serving > 0 {
            self.localities.push((locality, population.serving));
        }
    }

    /// Part of all calls that it can carry.
    fn carries(&self) -> f64 {
        (OVERPROVISIONING * self.serving as f64 / self.meant.max(1) as f64).min(1.0)
    }
}

/// How far a locality is.
fn level(from: &Locality, locality: &Locality) -> usize {
    let same_region = from.region() == locality.region();
    match (from.region().is_empty(), from.zone().is_empty()) {
        (true, true) => 0,
        (_, false) if same_region && from.zone() == locality.zone() => 0,
        (_, true) if same_region => 0,
        _ if same_region => 1,
        _ => 2,
    }
}

/// The part of the calls that each of the first levels gets: as many levels as it takes to carry everything. At least one.
fn share(levels: &[Level<'_>]) -> Vec<f64> {
    let mut shares = Vec::new();
    let mut left = 1.0;
    for level in levels {
        let share = level.carries().min(left);
        shares.push(share);
        left -= share;
        if left <= f64::EPSILON {
            break;
        }
    }
    let carried = 1.0 - left;
    shares.iter_mut().for_each(|share| *share /= carried); // more is asked than all can carry: everybody gets more
    if shares.is_empty() { vec![1.0] } else { shares }
}

/// What weights that add up to `sum` are multiplied with to fit into 32 bits, with room for those that are rounded up to 1.
fn fitting(sum: u64) -> f64 {
    const ROOM: u64 = 1 << 31;
    if sum <= ROOM { 1.0 } else { ROOM as f64 / sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(text: &str) -> Locality {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default();
        Locality::new(next(), next(), next())
    }

    fn ranks(from: &str, populations: &[(&str, u64, u64)]) -> Vec<(String, u32, u32)> {
        let populations = populations
            .iter()
            .map(|(at, serving, meant)| (place(at), Population { serving: *serving, meant: *meant }))
            .collect();
        let name = |it: &Locality| format!("{}/{}", it.region(), it.zone());
        rank(&populations, &place(from)).iter().map(|(at, rank)| (name(at), rank.priority, rank.weight)).collect()
    }

    fn said(rows: &[(&str, u32, u32)]) -> Vec<(String, u32, u32)> {
        rows.iter().map(|(at, priority, weight)| ((*at).to_owned(), *priority, *weight)).collect()
    }

    #[test]
    fn who_does_not_say_where_he_is_calls_everywhere_alike() {
        let all = [("eu/a", 3, 3), ("eu/b", 1, 2), ("us/a", 2, 2)];
        assert_eq!(ranks("", &all), said(&[("eu/a", 0, 3), ("eu/b", 0, 1), ("us/a", 0, 2)]));
    }

    #[test]
    fn the_own_zone_comes_first_then_the_region_then_the_rest() {
        let all = [("eu/a", 3, 3), ("eu/b", 1, 1), ("us/a", 2, 2)];
        assert_eq!(ranks("eu/b", &all), said(&[("eu/a", 1, 3), ("eu/b", 0, 1), ("us/a", 2, 2)]));
        assert_eq!(ranks("eu", &all), said(&[("eu/a", 0, 3), ("eu/b", 0, 1), ("us/a", 1, 2)]));
    }

    #[test]
    fn levels_without_anybody_leave_no_gap() {
        let all = [("eu/a", 0, 3), ("eu/b", 0, 0), ("us/a", 2, 2)];
        assert_eq!(ranks("eu/a", &all), said(&[("us/a", 0, 2)]));
        assert_eq!(ranks("eu/a", &[("eu/a", 0, 2)]), said(&[]));
    }

    #[test]
    fn what_a_zone_cannot_carry_moves_to_the_next_level_little_by_little() {
        let with = |serving| ranks("eu/a", &[("eu/a", serving, 10), ("eu/b", 10, 10), ("us/a", 5, 5)]);
        assert_eq!(with(8), said(&[("eu/a", 0, 8), ("eu/b", 1, 10), ("us/a", 2, 5)]), "8 of 10 carry it all");
        assert_eq!(with(5), said(&[("eu/a", 0, 700_000), ("eu/b", 0, 300_000), ("us/a", 1, 5)]));
        assert_eq!(with(1), said(&[("eu/a", 0, 140_000), ("eu/b", 0, 860_000), ("us/a", 1, 5)]));
    }

    proptest! {
        #[test]
        fn priorities_are_contiguous_and_weights_add_up(
            all in proptest::collection::btree_map("[ab]?", (0u64..70_000_000_000, 0u64..70_000_000_000), 0..6),
            from in "[ab]?/[ab]?",
        ) {
            let populations: BTreeMap<Locality, Population> = all.iter().enumerate().map(|(index, (region, (serving, more)))| {
                let at = place(&format!("{region}/{}", ["a", "b", ""][index % 3]));
                (at, Population { serving: *serving, meant: serving + more })
            }).collect();
            let ranks = rank(&populations, &place(&from));
            let serving = populations.iter().filter(|(_, it)| it.serving > 0).map(|(at, _)| at);
            prop_assert!(serving.eq(ranks.keys()));
            let priorities: std::collections::BTreeSet<u32> = ranks.values().map(|it| it.priority).collect();
            prop_assert!(priorities.iter().copied().eq(0..priorities.len() as u32), "{priorities:?}");
            for priority in priorities {
                let weights = ranks.values().filter(|it| it.priority == priority).map(|it| u64::from(it.weight));
                prop_assert!(weights.clone().all(|it| it >= 1));
                prop_assert!(weights.sum::<u64>() <= u64::from(u32::MAX));
            }
        }
    }
}
