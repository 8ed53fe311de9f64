//! Invariants 4, 5 and 6, for pages of scans: a page is the fold at the position that it names, partition by partition, in
//! the order of the keys, without a gap; it is not older than its token, and a linearizable one not older than what was known.

use super::super::ledger::Ledgers;
use super::super::seen::{Consistency, Page};
use super::super::violation::Broken;
use super::covering;
use bytes::Bytes;
use duramen_common::{Offset, PartitionId, SessionToken, Timestamp};
use std::collections::BTreeMap;

/// Holds a page to the ledger; false while that does not cover it.
pub(super) fn check(page: &Page, ledgers: &Ledgers) -> Result<bool, Broken> {
    check_age(page)?;
    let mut wanted: BTreeMap<&Bytes, (Timestamp, &Bytes)> = BTreeMap::new();
    for (&partition, &end) in &page.ends {
        let Some(last) = end.previous() else { continue };
        let Some(ledger) = covering(ledgers.get(partition), last) else { return Ok(false) };
        let here = ledger.live_at(end);
        wanted.extend(here.map(|(key, offset, value)| (key, (Timestamp { partition, offset }, value))));
    }
    wanted.retain(|key, _| **key >= page.start && page.after.as_ref().is_none_or(|after| *key > after));
    let is_whole = if page.has_more { page.items.len() == page.limit } else { page.items.len() == wanted.len() };
    let found = page.items.iter().map(|(key, version, value)| (key, (*version, value)));
    let is_fold = found.eq(wanted.iter().take(page.items.len()).map(|(key, item)| (*key, *item)));
    if is_whole && is_fold && page.items.len() <= page.limit {
        return Ok(true);
    }
    Err(Broken::new(4, format!("a page is not the fold at its position, which is {wanted:?}: {page:?}")))
}

fn check_age(page: &Page) -> Result<(), Broken> {
    let end = |partition: PartitionId| page.ends.get(&partition).copied().unwrap_or(Offset::ZERO);
    if page.consistency == Consistency::Stale {
        return Ok(());
    }
    let mut seen = page.token.iter().flat_map(SessionToken::timestamps);
    if let Some(seen) = seen.find(|seen| end(seen.partition) <= seen.offset) {
        return Err(Broken::new(5, format!("asked for what covers {seen}: {page:?}")));
    }
    let older = |(partition, known): &(&PartitionId, &Offset)| end(**partition) < **known;
    match page.known.iter().find(older) {
        Some((partition, known)) if page.consistency == Consistency::Linearizable => {
            Err(Broken::new(6, format!("{partition}:{known} was known before it began: {page:?}")))
        }
        _ => Ok(()),
    }
}
