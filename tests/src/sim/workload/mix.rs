//! Mix: what the clients of a run do, and how often.
//!
//! * Each seed leaves some deeds out and does others more often: some bugs show only where something else does not happen.
//! * Invariant: something is written in every run.
//! * Source: Groce and others 2012, "Swarm testing".

use crate::harness::Rng;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Reads a key, linearizable.
    ReadLinearizable,
    /// Reads a key within the session.
    ReadSession,
    /// Reads a key, however old.
    ReadStale,
    /// Sends again what was answered before.
    Repeat,
    /// Puts or deletes a key.
    Change,
    /// The same, if the key is absent.
    ChangeAbsent,
    /// The same, if the key is there.
    ChangeExisting,
    /// The same, if the key is as it was seen last.
    ChangeSeen,
    /// Changes many keys at once, each by itself.
    Batch,
    /// Changes several keys of one partition, all or nothing.
    Txn,
    /// Reads pages of keys.
    Scan,
    /// Compares serving nodes' digests.
    Digest,
}

/// Deeds, and how often each is done in a run that leaves nothing out.
const USUAL: [(Deed, usize); 12] = [
    (Deed::ReadLinearizable, 20),
    (Deed::ReadSession, 12),
    (Deed::ReadStale, 6),
    (Deed::Repeat, 8),
    (Deed::Change, 16),
    (Deed::ChangeAbsent, 4),
    (Deed::ChangeExisting, 4),
    (Deed::ChangeSeen, 12),
    (Deed::Batch, 6),
    (Deed::Txn, 12),
    (Deed::Scan, 5),
    (Deed::Digest, 3),
];

/// What clients do.
#[derive(Clone, Debug)]
pub struct Mix {
    weights: Vec<(Deed, usize)>,
    sum: usize,
}

impl Mix {
    /// Of a seed.
    #[must_use]
    pub fn of(rng: &mut Rng) -> Mix {
        let mut weights = USUAL.to_vec();
        for (deed, weight) in &mut weights {
            let is_kept = *deed == Deed::Change || rng.in_thousand(800);
            *weight *= if is_kept { *rng.pick(&[1, 1, 1, 4]) } else { 0 };
        }
        let sum = weights.iter().map(|(_, weight)| weight).sum();
        Mix { weights, sum }
    }

    /// Any of them.
    pub fn any(&self, rng: &mut Rng) -> Deed {
        let mut left = rng.below(self.sum);
        let falls_on = |(_, weight): &&(Deed, usize)| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        };
        self.weights.iter().find(falls_on).expect("what is left is below the sum of all").0
    }
}
