//! Keys of registers, each used for a while only: a search for an order has its limits, and an unknown write is
//! concurrent with everything after it.

use super::Field;
use crate::harness::Rng;
use std::sync::{Mutex, PoisonError};

/// Operations on one key.
const OPERATIONS_MAX: u32 = 80;
/// Unknown outcomes on one key.
const UNKNOWN_MAX: u32 = 4;

/// A round's keys.
pub struct Slots {
    prefix: String,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    generation: u32,
    operations: u32,
    unknown: u32,
}

impl Slots {
    /// So many keys at a time.
    pub fn new(field: &Field, workload: &str, count: usize) -> Slots {
        let prefix = format!("{workload}/{}", field.round);
        Slots { prefix, slots: Mutex::new(vec![Slot::default(); count]) }
    }

    /// A key for the next operation, and what to give back with its outcome.
    pub fn take(&self, rng: &mut Rng) -> (String, Taken) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let place = rng.below(slots.len());
        let slot = &mut slots[place];
        if slot.operations >= OPERATIONS_MAX || slot.unknown >= UNKNOWN_MAX {
            *slot = Slot { generation: slot.generation + 1, ..Slot::default() };
        }
        slot.operations += 1;
        (format!("{}/{place}/{}", self.prefix, slot.generation), Taken { place, generation: slot.generation })
    }

    /// Notes that an operation's outcome is not known.
    pub fn unknown(&self, taken: Taken) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut slots[taken.place];
        slot.unknown += u32::from(slot.generation == taken.generation);
    }
}

/// A slot's key at a time.
#[derive(Clone, Copy)]
pub struct Taken {
    place: usize,
    generation: u32,
}
