//! The invariants of DESIGN §6, checked as a run goes, one file each.
//!
//! * In: the replicas' logs and the serving nodes' views, every tick; what clients were told, as it comes. Out: nothing, or
//!   what is broken.
//! * What a client was told is judged once the ledger covers it; at the end, it must.
//! * Deliberately absent: compaction, which does not exist yet: the second half of invariant 8, and settled batches in 2.

mod acknowledged;
mod appended;
mod digests;
mod ends;
mod fold;
mod guards;
mod linearizable;
mod once;
mod pages;
mod progress;
mod replicas;
mod tokens;
mod told;
mod whole;

pub use ends::EndsSeen;
pub use fold::FoldsSeen;
pub use linearizable::judge_registers;
pub use once::OnceSeen;
pub use progress::{PROGRESS_MS_MAX, Progress};
pub use replicas::ReplicasSeen;
pub use told::{judge_feeds, judge_sessions};

use digests::DigestsSeen;

use super::ledger::{Ledger, Ledgers};
use super::seen::{Read, Seen, Written};
use super::violation::Broken;

/// What clients were told and is not judged yet.
#[derive(Default)]
pub struct Told {
    /// The ledger does not cover it yet.
    waiting: Vec<Seen>,
    /// Only the whole log can tell.
    at_end: Vec<Seen>,
    digests: DigestsSeen,
}

impl Told {
    /// Judges what has been seen, as far as the ledger goes.
    pub fn judge(&mut self, seen: Vec<Seen>, ledgers: &Ledgers) -> Result<(), Broken> {
        self.waiting.extend(seen);
        for seen in std::mem::take(&mut self.waiting) {
            let is_covered = match &seen {
                Seen::Wrong { invariant, what } => return Err(Broken::new(*invariant, what.clone())),
                Seen::Write(write) => written(write, ledgers)?,
                Seen::Read(read) => was_read(read, ledgers)?,
                Seen::Page(page) => pages::check(page, ledgers)?,
                Seen::Digest(digest) => self.digests.check(digest)?,
                Seen::Appended(appended) => appended::check(appended, ledgers)?,
                Seen::Fetched(fetched) => appended::check_fetched(fetched, ledgers)?,
                Seen::OneAppend { .. } | Seen::Refused { .. } => {
                    self.at_end.push(seen);
                    continue;
                }
            };
            if !is_covered {
                self.waiting.push(seen);
            }
        }
        Ok(())
    }

    /// Whether something was said that the ledger does not cover yet.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// At the end, nothing may be left that the log does not know.
    pub fn judge_rest(&self, ledgers: &Ledgers) -> Result<(), Broken> {
        for seen in self.waiting.iter().chain(&self.at_end) {
            match seen {
                Seen::OneAppend { ids } => whole::check_one_append(ids, ledgers)?,
                Seen::Refused { ids } => whole::check_refused(ids, ledgers)?,
                seen => {
                    let what = format!("the log does not know of what a client was told: {seen:?}");
                    return Err(Broken::new(1, what));
                }
            }
        }
        Ok(())
    }
}

/// Whether the ledger covers it; an error if it says otherwise.
fn written(write: &Written, ledgers: &Ledgers) -> Result<bool, Broken> {
    let Some(place) = write.place else { return guards::check_refused(write, ledgers) };
    let Some(ledger) = covering(ledgers.get(place.partition), place.offset) else { return Ok(false) };
    acknowledged::check(write, place, ledger)?;
    linearizable::check_write(write, place)?;
    Ok(true)
}

fn was_read(read: &Read, ledgers: &Ledgers) -> Result<bool, Broken> {
    tokens::check_position(read)?;
    linearizable::check_read(read)?;
    match read.served_end.previous() {
        None => tokens::check_nothing(read),
        Some(last) => {
            let Some(ledger) = covering(ledgers.get(read.partition), last) else { return Ok(false) };
            tokens::check_value(read, ledger)
        }
    }?;
    Ok(true)
}

fn covering(ledger: Option<&Ledger>, offset: duramen_common::Offset) -> Option<&Ledger> {
    ledger.filter(|ledger| ledger.end() > offset)
}

#[cfg(test)]
mod tests;
