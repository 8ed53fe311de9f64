//! Invariants 1, 2 and 6, for those who use the log itself: an acknowledged record stands at its offset, behind all that was
//! known before; and a fetch gives the ledger's bytes, without a gap.

use super::super::ledger::Ledgers;
use super::super::seen::{Appended, Fetched};
use super::super::violation::Broken;
use super::covering;
use duramen_common::Offset;
use duramen_common::batch::BatchHeader;

/// Holds acknowledged records to the ledger; false while that does not cover them.
pub(super) fn check(appended: &Appended, ledgers: &Ledgers) -> Result<bool, Broken> {
    let known = appended.known.get(&appended.partition).copied().unwrap_or_default();
    for (id, fingerprint, offset) in &appended.records {
        let Some(ledger) = covering(ledgers.get(appended.partition), *offset) else { return Ok(false) };
        let is_there = ledger.record(*offset).is_some_and(|there| there.id == *id && there.fingerprint == *fingerprint);
        if !is_there {
            return Err(Broken::new(1, format!("another record stands at {offset}: {appended:?}")));
        }
        if *offset < known {
            return Err(Broken::new(
                6,
                format!("{known} was known before it began, it stands at {offset}: {appended:?}"),
            ));
        }
    }
    Ok(true)
}

/// Holds fetched batches to the ledger; false while that does not cover them.
pub(super) fn check_fetched(fetched: &Fetched, ledgers: &Ledgers) -> Result<bool, Broken> {
    let wrong = |why: &str, at: Offset| {
        let Fetched { client, partition, from, .. } = fetched;
        Err(Broken::new(2, format!("client {client} fetched {partition} from {from}: {why} {at}")))
    };
    let mut end = fetched.from;
    for (number, (id, bytes)) in fetched.batches.iter().enumerate() {
        let header = BatchHeader::parse(bytes)
            .map_err(|error| Broken::new(2, format!("a fetched batch does not parse: {error}")))?;
        let first = header.first_offset;
        if first > end || (number > 0 && first < end) || header.end() <= fetched.from {
            return wrong("the batches do not follow one another at", first);
        }
        let Some(last) = header.end().previous() else { return wrong("an empty batch at", first) };
        let Some(ledger) = covering(ledgers.get(fetched.partition), last) else { return Ok(false) };
        if ledger.batch(first) != Some(&(*id, bytes.clone())) {
            return wrong("other bytes than the ledger's at", first);
        }
        end = header.end();
    }
    if end != fetched.next_offset {
        return wrong("it says to go on elsewhere than at the end,", fetched.next_offset);
    }
    Ok(true)
}
