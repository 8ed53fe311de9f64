//! The search: is there an order of one register's operations that explains every answer?
//!
//! It walks the events in their order and keeps every configuration that is a linearization of what has ended so far
//! ("just in time": an operation is placed only when one must end, or when something sees it). When none is left at an
//! operation's end, there is no linearization. The history's length does not enter the number of configurations; only
//! what is in flight does, and what is unknown. What keeps that number small, each with the reason why no linearization
//! is lost (L is one that continues a configuration):
//!
//! 1. *An observer (read, mismatch) in flight is placed as soon as the value allows it.* It changes nothing, so in L it can
//!    be moved forward to this point, which lies between its invocation and its end.
//! 2. *When a write is placed, every other write in flight is excused*: it need not be placed any more, but may be. If L
//!    leaves it out, it goes right before the placed one, which overwrites it unseen; if L has it, it goes there. The same
//!    holds where the value is already what it writes.
//! 3. *A write or an unknown compare-and-set is placed only if an observer or a compare-and-set in flight needs its value,*
//!    or because it is the operation that ends. Take the part of L up to the operation that ends. A write in it that is
//!    followed by another write (observers moved forward by 1 aside) is seen by nobody: by 2 it can go. So can an unknown
//!    compare-and-set before a write. What is left is followed by something that is in flight and needs the value, or by an
//!    unknown compare-and-set, which in turn is needed: `wanted` is the closure. A write of the value that is there already
//!    is worth its place only if it excuses another one.
//! 4. *Unknown operations are counted by effect, not told apart*: one that was invoked earlier can stand for a later one.
//!    And using fewer is always better, because one that is not used may be left out. So an unknown write that nobody ever
//!    needs is never looked at.
//! 5. *Dominated configurations are dropped* (see `configuration`).
//!
//! Each rule only leaves out branches or adds ones that are linearizations themselves, so a surviving configuration is a
//! proof. Source: Lowe 2017, section 4; rules 2 to 4 are for registers.

use super::configuration::{Configuration, Frontier, Kinds, SLOTS_MAX, Slots};
use super::{ABSENT, Bounds, Effect, Step, ValueId};
use std::collections::{BTreeMap, VecDeque};

/// What came out.
pub enum Found {
    /// There is an order.
    Order,
    /// There is none.
    Nothing(DeadEnd),
    /// A bound was reached.
    TooMuch {
        /// Which one.
        reason: String,
        /// The operation for which a narrower search found no place.
        stuck_at: Option<usize>,
    },
}

/// Why one run ends early.
enum Stop {
    /// No configuration is left. When some were left out before, that proves nothing.
    DeadEnd {
        at: DeadEnd,
        cut: bool,
    },
    Bound {
        reason: String,
    },
}

/// Where the search ended. Numbers are places among the steps.
pub struct DeadEnd {
    /// The operation that could not be placed.
    pub culprit: usize,
    /// What was in flight at its end.
    pub concurrent: Vec<usize>,
    /// Linearizations of all that ended before: the value and the mutations placed last.
    pub explanations: Vec<(ValueId, Vec<usize>)>,
}

/// How many linearizations a dead end shows.
const EXPLANATIONS_MAX: usize = 3;

/// Unknown operations of one effect.
#[derive(Clone, Copy)]
struct Unknown {
    count: u32,
    example: usize,
}

struct Search<'a> {
    steps: &'a [Step],
    bounds: &'a Bounds,
    /// Operations in flight, by slot.
    open: Vec<Option<usize>>,
    kinds: Kinds,
    writes: BTreeMap<ValueId, Unknown>,
    /// By the new value, then the old one.
    swaps: BTreeMap<(ValueId, ValueId), Unknown>,
    frontier: Frontier,
    /// Whether configurations were left out because there were too many.
    cut: bool,
    looked_at: u64,
}

/// Searches an order for one register's steps, which are in the order of their invocations.
///
/// Which of many unknown operations was used can be told in very many ways, of which hardly ever more than a few matter.
/// So it is first tried with a few of each kind, the most economical ones. An order that is found is an order; that none
/// is found counts only if nothing was left out, else it is tried with more.
pub fn run(steps: &[Step], bounds: &Bounds) -> Found {
    let mut first_end = None;
    for width_max in [4, 16, 64, usize::MAX] {
        let reason = match run_narrow(steps, bounds, width_max) {
            Ok(()) => return Found::Order,
            Err(Stop::DeadEnd { at, cut: false }) => return Found::Nothing(at),
            Err(Stop::DeadEnd { at, cut: true }) => {
                first_end.get_or_insert(at.culprit);
                continue;
            }
            Err(Stop::Bound { reason }) => reason,
        };
        return Found::TooMuch { reason, stuck_at: first_end };
    }
    unreachable!("nothing is left out of what has no width")
}

fn run_narrow(steps: &[Step], bounds: &Bounds, width_max: usize) -> Result<(), Stop> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(steps.len() * 2);
    for (number, step) in steps.iter().enumerate() {
        events.push((step.invoked, false, number));
        events.extend(step.completed.map(|at| (at, true, number)));
    }
    events.sort_unstable();
    let mut search = Search {
        steps,
        bounds,
        open: vec![None; SLOTS_MAX],
        kinds: Kinds::default(),
        writes: BTreeMap::new(),
        swaps: BTreeMap::new(),
        frontier: Frontier::new(width_max),
        cut: false,
        looked_at: 0,
    };
    search.frontier.insert(Configuration::start(ABSENT), &Kinds::default());
    for (_, ends, number) in events {
        if ends { search.end(number)? } else { search.begin(number)? }
    }
    Ok(())
}

impl Search<'_> {
    fn begin(&mut self, number: usize) -> Result<(), Stop> {
        let step = &self.steps[number];
        if step.completed.is_none() {
            let unknown = match step.effect {
                Effect::Write(value) => self.writes.entry(value),
                Effect::Swap(from, to) => {
                    self.swaps.entry((to, from)).or_insert(Unknown { count: 0, example: number }).count += 1;
                    return Ok(());
                }
                Effect::Read(_) | Effect::Miss(_) => return Ok(()),
            };
            unknown.or_insert(Unknown { count: 0, example: number }).count += 1;
            return Ok(());
        }
        let Some(slot) = self.open.iter().position(Option::is_none) else {
            return Err(Stop::Bound { reason: format!("more than {SLOTS_MAX} operations at once") });
        };
        self.open[slot] = Some(number);
        let bit: Slots = 1 << slot;
        match step.effect {
            Effect::Read(_) | Effect::Miss(_) => self.kinds.observers |= bit,
            Effect::Write(_) => self.kinds.writes |= bit,
            Effect::Swap(..) => self.kinds.swaps |= bit,
        }
        let before = self.take_frontier();
        for mut configuration in before.into_configurations() {
            self.settle(&mut configuration);
            self.frontier.insert(configuration, &self.kinds);
        }
        Ok(())
    }

    /// An operation ends: only configurations that have placed it (or need not) go on.
    fn end(&mut self, number: usize) -> Result<(), Stop> {
        let slot = self.open.iter().position(|&open| open == Some(number)).expect("it began");
        let bit: Slots = 1 << slot;
        let rest = Kinds {
            observers: self.kinds.observers & !bit,
            writes: self.kinds.writes & !bit,
            swaps: self.kinds.swaps & !bit,
        };
        let before = self.take_frontier();
        let mut after = Frontier::new(before.width_max());
        let mut seen = Frontier::new(before.width_max());
        let mut work: VecDeque<Configuration> = before.iter().cloned().collect();
        for configuration in before.iter().filter(|configuration| configuration.excused & bit != 0) {
            after.insert(configuration.without(bit), &rest);
        }
        while let Some(configuration) = work.pop_front() {
            self.looked_at += 1;
            if self.looked_at > self.bounds.steps_max {
                return Err(Stop::Bound { reason: format!("more than {} steps", self.bounds.steps_max) });
            }
            if configuration.placed & bit != 0 {
                after.insert(configuration.without(bit), &rest);
            } else if seen.insert(configuration.clone(), &self.kinds) {
                for next in self.successors(&configuration, slot) {
                    // Those that use fewer unknown operations come first: they dominate.
                    match next.used_total() > configuration.used_total() {
                        true => work.push_back(next),
                        false => work.push_front(next),
                    }
                }
            }
            if after.len() + seen.len() > self.bounds.configurations_max {
                let reason = format!("more than {} configurations", self.bounds.configurations_max);
                return Err(Stop::Bound { reason });
            }
        }
        self.cut |= after.was_cut() || seen.was_cut();
        if after.len() == 0 {
            return Err(Stop::DeadEnd { at: self.dead_end(number, &before), cut: self.cut });
        }
        self.open[slot] = None;
        self.kinds = rest;
        self.frontier = after;
        self.forget_common_use();
        Ok(())
    }

    fn take_frontier(&mut self) -> Frontier {
        let empty = Frontier::new(self.frontier.width_max());
        std::mem::replace(&mut self.frontier, empty)
    }

    fn dead_end(&self, culprit: usize, before: &Frontier) -> DeadEnd {
        let explain = |configuration: &Configuration| (configuration.value, configuration.last_placed());
        DeadEnd {
            culprit,
            concurrent: self.open.iter().flatten().copied().filter(|&number| number != culprit).collect(),
            explanations: before.iter().take(EXPLANATIONS_MAX).map(explain).collect(),
        }
    }

    /// Rule 1 and the second half of rule 2.
    fn settle(&self, configuration: &mut Configuration) {
        let mut owed = (self.kinds.observers | self.kinds.writes) & !(configuration.placed | configuration.excused);
        while owed != 0 {
            let slot = owed.trailing_zeros() as usize;
            let bit: Slots = 1 << slot;
            owed &= !bit;
            match self.effect(slot) {
                Effect::Read(value) if value == configuration.value => configuration.placed |= bit,
                Effect::Miss(value) if value != configuration.value => configuration.placed |= bit,
                Effect::Write(value) if value == configuration.value => configuration.excused |= bit,
                _ => {}
            }
        }
    }

    fn effect(&self, slot: usize) -> Effect {
        let number = self.open[slot].expect("a kind's bit is set only while the slot is in use");
        self.steps[number].effect
    }

    fn forget_common_use(&mut self) {
        for (effect, count) in self.frontier.take_common_use() {
            match effect {
                Effect::Write(value) => use_up(&mut self.writes, value, count),
                Effect::Swap(from, to) => use_up(&mut self.swaps, (to, from), count),
                Effect::Read(_) | Effect::Miss(_) => {}
            }
        }
    }

    /// Rule 3: the values that something in flight needs; `None` stands for any.
    fn wanted(&self, configuration: &Configuration) -> Option<Vec<ValueId>> {
        let mut wanted = Vec::new();
        let mut waiting = (self.kinds.observers | self.kinds.swaps) & !configuration.placed;
        while waiting != 0 {
            let slot = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            match self.effect(slot) {
                // It waits for any other value than this.
                Effect::Miss(_) => return None,
                Effect::Read(value) | Effect::Swap(value, _) => wanted.push(value),
                Effect::Write(_) => {}
            }
        }
        let mut next = 0;
        while let Some(&to) = wanted.get(next) {
            next += 1;
            for (&(_, from), unknown) in self.swaps.range((to, ValueId::MIN)..=(to, ValueId::MAX)) {
                if !wanted.contains(&from) && unknown.count > configuration.count_used(Effect::Swap(from, to)) {
                    wanted.push(from);
                }
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        Some(wanted)
    }

    /// What may be placed next, when the operation in the slot `ending` must be placed before the next event.
    fn successors(&self, configuration: &Configuration, ending: usize) -> Vec<Configuration> {
        let wanted = self.wanted(configuration);
        let needed = |value| wanted.as_ref().is_none_or(|wanted| wanted.binary_search(&value).is_ok());
        let mut successors = Vec::new();
        let mut waiting = (self.kinds.writes | self.kinds.swaps) & !configuration.placed;
        while waiting != 0 {
            let slot = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            let changes = |value| value != configuration.value || self.owed_writes(configuration) & !(1 << slot) != 0;
            let useful = |value| slot == ending || (needed(value) && changes(value));
            let mut next = match self.effect(slot) {
                Effect::Write(value) if useful(value) => self.write(configuration, value),
                Effect::Swap(from, to) if from == configuration.value => configuration.with(to),
                _ => continue,
            };
            next.placed |= 1 << slot;
            next.excused &= !(1 << slot);
            next.remember(self.open[slot].expect("the slot is in use"));
            successors.push(next);
        }
        match &wanted {
            Some(wanted) => wanted.iter().for_each(|&value| self.unknown(configuration, value, &mut successors)),
            None => {
                let values = self.writes.keys().copied().chain(self.swaps.keys().map(|&(to, _)| to));
                let mut values: Vec<ValueId> = values.collect();
                values.sort_unstable();
                values.dedup();
                values.into_iter().for_each(|value| self.unknown(configuration, value, &mut successors));
            }
        }
        successors.iter_mut().for_each(|next| self.settle(next));
        successors
    }

    /// Writes in flight that must still be placed.
    fn owed_writes(&self, configuration: &Configuration) -> Slots {
        self.kinds.writes & !(configuration.placed | configuration.excused)
    }

    /// Rule 2.
    fn write(&self, configuration: &Configuration, value: ValueId) -> Configuration {
        let mut next = configuration.with(value);
        next.excused |= self.kinds.writes & !next.placed;
        next
    }

    /// Unknown operations that make the value this one.
    fn unknown(&self, configuration: &Configuration, value: ValueId, successors: &mut Vec<Configuration>) {
        let changes = value != configuration.value;
        let write = self.writes.get(&value).filter(|_| changes || self.owed_writes(configuration) != 0);
        let write = write.map(|unknown| (unknown, Effect::Write(value)));
        let swap = self.swaps.get(&(value, configuration.value));
        let swap = swap.map(|unknown| (unknown, Effect::Swap(configuration.value, value)));
        for (unknown, effect) in write.into_iter().chain(swap) {
            if unknown.count <= configuration.count_used(effect) {
                continue;
            }
            let mut next = match effect {
                Effect::Write(_) => self.write(configuration, value),
                _ => configuration.with(value),
            };
            next.count_up(effect);
            next.remember(unknown.example);
            successors.push(next);
        }
    }
}

fn use_up<K: Ord>(unknowns: &mut BTreeMap<K, Unknown>, key: K, count: u32) {
    if let Some(unknown) = unknowns.get_mut(&key) {
        unknown.count -= count;
        if unknown.count == 0 {
            unknowns.remove(&key);
        }
    }
}
