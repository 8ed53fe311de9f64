//! Where the idempotency keys that came here lately were used: a key that comes again for another partition is refused.
//!
//! * The log itself refuses a key that comes again for another write of the *same* partition, at every node and after
//!   restarts; partitions know nothing of each other, so that this memory of one node is all there is across them.
//! * In: ids of given keys, with their partitions. Out: whether one was used elsewhere.
//! * Invariant: bounded; the oldest are forgotten first. Nothing is ever refused that was not used elsewhere.
//! * Deliberately absent: minted keys (nobody can have used them), other nodes.
//! * Source: DESIGN D5; docs/http-api.md, "Writing".

use duramen_common::{PartitionId, RequestId};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};

/// How many keys are remembered: some minutes of retries, in about 3 MiB.
const PLACES_MAX: usize = 65_536;

/// The memory. One a node.
#[derive(Default)]
pub(crate) struct KeyPlaces {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    places: HashMap<RequestId, PartitionId>,
    order: VecDeque<RequestId>,
}

impl KeyPlaces {
    /// Whether this id was used in another partition.
    pub(crate) fn is_elsewhere(&self, id: RequestId, partition: PartitionId) -> bool {
        self.known.lock().places.get(&id).is_some_and(|place| *place != partition)
    }

    /// Notes that a write under this id is, or may be, in the partition's log.
    pub(crate) fn note(&self, id: RequestId, partition: PartitionId) {
        let mut known = self.known.lock();
        if known.places.insert(id, partition).is_some() {
            return;
        }
        known.order.push_back(id);
        if known.order.len() > PLACES_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_first() {
        let places = KeyPlaces::default();
        let id = |number: usize| RequestId::from_bits(number as u128);
        let (here, there) = (PartitionId::new(0), PartitionId::new(1));
        for number in 0..=PLACES_MAX {
            places.note(id(number), here);
            places.note(id(number), here);
        }
        assert!(!places.is_elsewhere(id(0), there), "forgotten");
        assert!(places.is_elsewhere(id(1), there) && !places.is_elsewhere(id(1), here));
        assert_eq!(places.known.lock().order.len(), PLACES_MAX);
    }
}
