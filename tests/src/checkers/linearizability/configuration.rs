//! The memo of the search: configurations, and sets of them that keep only those that no other one makes superfluous.
//!
//! * A configuration is what the future can tell of a linearized prefix: the value, which of the operations in flight have
//!   been placed, and which unknown operations have been used up.
//! * Invariant: in a [`Frontier`] no configuration dominates another one. A dominating one can go on in every way in which
//!   the dominated one can, so dropping the latter loses no linearization.

use super::{Effect, ValueId};
use std::collections::BTreeMap;

/// One bit per operation in flight.
pub type Slots = u128;
/// How many operations may be in flight, unknown ones not counted.
pub const SLOTS_MAX: usize = 128;
/// How many placed operations a configuration remembers, for reports.
const TRAIL_MAX: usize = 8;
const NOBODY: u32 = u32::MAX;

/// The slots in use, by what their operations do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kinds {
    /// Reads and mismatches: they change nothing.
    pub observers: Slots,
    /// Unconditional writes.
    pub writes: Slots,
    /// Successful compare-and-sets.
    pub swaps: Slots,
}

/// What is left of a linearized prefix.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The register's value.
    pub value: ValueId,
    /// Operations in flight that have been placed.
    pub placed: Slots,
    /// Writes in flight that need not be placed any more, but may: another write was placed while they were in flight,
    /// and right before that one they would not have been seen.
    pub excused: Slots,
    /// Unknown operations that have been placed, by what they do.
    pub used: Vec<(Effect, u32)>,
    trail: [u32; TRAIL_MAX],
}

impl Configuration {
    /// Nothing placed.
    pub fn start(value: ValueId) -> Configuration {
        Configuration { value, placed: 0, excused: 0, used: Vec::new(), trail: [NOBODY; TRAIL_MAX] }
    }

    /// The same with another value.
    pub fn with(&self, value: ValueId) -> Configuration {
        Configuration { value, ..self.clone() }
    }

    /// The same once the operation in a slot has ended.
    pub fn without(&self, slot: Slots) -> Configuration {
        Configuration { placed: self.placed & !slot, excused: self.excused & !slot, ..self.clone() }
    }

    /// Notes for reports that `step` was placed.
    pub fn remember(&mut self, step: usize) {
        self.trail.rotate_left(1);
        self.trail[TRAIL_MAX - 1] = step as u32;
    }

    /// The steps placed last, in their order.
    pub fn last_placed(&self) -> Vec<usize> {
        self.trail.iter().filter(|&&step| step != NOBODY).map(|&step| step as usize).collect()
    }

    /// How many unknown operations of this effect were used.
    pub fn count_used(&self, effect: Effect) -> u32 {
        self.used.iter().find(|(used, _)| *used == effect).map_or(0, |&(_, count)| count)
    }

    /// How many unknown operations were used.
    pub fn used_total(&self) -> u32 {
        self.used.iter().map(|&(_, count)| count).sum()
    }

    /// Uses one more.
    pub fn count_up(&mut self, effect: Effect) {
        match self.used.binary_search_by_key(&effect, |&(used, _)| used) {
            Ok(place) => self.used[place].1 += 1,
            Err(place) => self.used.insert(place, (effect, 1)),
        }
    }

    fn uses_no_more_than(&self, other: &Configuration) -> bool {
        self.used.len() <= other.used.len()
            && self.used.iter().all(|&(effect, count)| count <= other.count_used(effect))
    }

    /// Whether every continuation of `other` is one of `self` too. Values and placed swaps are equal here. Then:
    /// a placed observer is an obligation less, and nothing more; an excused write can be placed or left out, so it can do
    /// what a placed, an owed and an excused one can; an unknown operation not used yet may still be left out.
    fn dominates(&self, other: &Configuration, kinds: &Kinds) -> bool {
        let owed_here = !self.placed & other.placed & kinds.observers;
        let bound_here = ((self.placed ^ other.placed) | other.excused) & kinds.writes & !self.excused;
        owed_here == 0 && bound_here == 0 && self.uses_no_more_than(other)
    }
}

/// Configurations of which none dominates another.
#[derive(Clone, Debug)]
pub struct Frontier {
    groups: BTreeMap<(ValueId, Slots), Vec<Configuration>>,
    count: usize,
    width_max: usize,
    was_cut: bool,
}

impl Frontier {
    /// None yet, and no more than `width_max` of one value and the same swaps: those that use least.
    pub fn new(width_max: usize) -> Frontier {
        Frontier { groups: BTreeMap::new(), count: 0, width_max, was_cut: false }
    }

    /// How many of one value and the same swaps are kept.
    pub fn width_max(&self) -> usize {
        self.width_max
    }

    /// Whether any was left out although nothing dominates it.
    pub fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// Takes a configuration in unless a known one dominates it; drops those that it dominates. Says whether it is in.
    pub fn insert(&mut self, configuration: Configuration, kinds: &Kinds) -> bool {
        let group = self.groups.entry((configuration.value, configuration.placed & kinds.swaps)).or_default();
        if group.iter().any(|known| known.dominates(&configuration, kinds)) {
            return false;
        }
        let before = group.len();
        group.retain(|known| !configuration.dominates(known, kinds));
        if group.len() >= self.width_max {
            self.was_cut = true;
            let worst = (0..group.len()).max_by_key(|&place| group[place].used_total());
            let worst = worst.filter(|&place| group[place].used_total() > configuration.used_total());
            let Some(worst) = worst else { return false };
            group.swap_remove(worst);
        }
        group.push(configuration);
        self.count = self.count - before + group.len();
        true
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// All of them, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &Configuration> {
        self.groups.values().flatten()
    }

    /// All of them, by value.
    pub fn into_configurations(self) -> impl Iterator<Item = Configuration> {
        self.groups.into_values().flatten()
    }

    /// Forgets, in every configuration, what all of them have used; returns that.
    pub fn take_common_use(&mut self) -> Vec<(Effect, u32)> {
        let Some(first) = self.iter().next() else { return Vec::new() };
        let mut common = first.used.clone();
        for configuration in self.iter() {
            for (effect, count) in &mut common {
                *count = (*count).min(configuration.count_used(*effect));
            }
        }
        common.retain(|&(_, count)| count > 0);
        if common.is_empty() {
            return common;
        }
        for configuration in self.groups.values_mut().flatten() {
            for (effect, count) in &common {
                for (used, total) in &mut configuration.used {
                    if used == effect {
                        *total -= count;
                    }
                }
            }
            configuration.used.retain(|&(_, count)| count > 0);
        }
        common
    }
}
