//! Invariant 5: a read with token T answers from an applied end beyond T, or says that it cannot; and what it shows is the
//! fold at the position that it names.

use super::super::ledger::Ledger;
use super::super::seen::{Consistency, Read};
use super::super::violation::Broken;
use duramen_common::Offset;

/// Holds the position that a read names to the token that it carried.
pub(super) fn check_position(read: &Read) -> Result<(), Broken> {
    if read.consistency == Consistency::Stale {
        return Ok(());
    }
    let wanted = read.token.as_ref().and_then(|token| token.position(read.partition));
    match wanted {
        Some(wanted) if read.served_end <= wanted => {
            Err(Broken::new(5, format!("asked for what covers {wanted}, answered from {}: {read:?}", read.served_end)))
        }
        _ => Ok(()),
    }
}

/// Holds what a read found to the fold at its position, which the ledger covers.
pub(super) fn check_value(read: &Read, ledger: &Ledger) -> Result<(), Broken> {
    let wanted = match ledger.key_at(&read.key, read.served_end) {
        Some((version, Some(value))) => Some((*version, value.clone())),
        _ => None,
    };
    if wanted == read.found {
        return Ok(());
    }
    Err(Broken::new(5, format!("the fold at {} holds {wanted:?}: {read:?}", read.served_end)))
}

/// A read from an empty partition finds nothing.
pub(super) fn check_nothing(read: &Read) -> Result<(), Broken> {
    if read.found.is_none() && read.served_end == Offset::ZERO {
        return Ok(());
    }
    Err(Broken::new(5, format!("found something in an empty log: {read:?}")))
}
