//! One page of a scan while it is put together: the smallest keys of all partitions, never more than one page of them.
//!
//! * In: what each partition has, one after the other. Out: the page as JSON, and a cursor where there may be more.
//! * After the last key of a partition that may have more, nothing is known: a page never goes further than that, its
//!   *frontier*. Each partition narrows it, so that the next ones are read no further.
//! * Invariant: what is kept is at most one page of JSON, or one item.
//! * Deliberately absent: reading.

use super::cursor::{Bounds, Cursor};
use crate::view::Item;
use bytes::Bytes;
use duramen_common::{Blob, HistoryId, PartitionId, SessionToken, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;

/// A page ends before it is larger than this, unless a single item is. Unit: bytes of JSON.
pub(super) const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an item's JSON has besides its key and value. Unit: bytes.
const ITEM_OVERHEAD_BYTES: usize = 72;

#[derive(Serialize)]
struct PageItem {
    key: Blob,
    value: Blob,
    version: SessionToken,
}

#[derive(Serialize)]
struct Page {
    items: Vec<PageItem>,
    cursor: Option<String>,
    timestamp: SessionToken,
}

/// What one partition gave: items in key order, and whether it may have more after them.
pub(super) struct Part {
    pub(super) partition: PartitionId,
    pub(super) items: Vec<(Bytes, Item)>,
    pub(super) may_have_more: bool,
}

/// An item and where it is from.
struct Kept {
    partition: PartitionId,
    item: Item,
    json_bytes: usize,
}

/// A page that is not complete yet.
pub(super) struct PageBuilder {
    limit: usize,
    items: BTreeMap<Bytes, Kept>,
    json_bytes: usize,
    /// Up to here, this included, the keys are known; `None` where all are.
    pub(super) frontier: Option<Bytes>,
}

impl PageBuilder {
    pub(super) fn new(limit: usize) -> PageBuilder {
        PageBuilder { limit, items: BTreeMap::new(), json_bytes: 0, frontier: None }
    }

    /// Takes in what one partition has up to the frontier.
    pub(super) fn add(&mut self, part: Part) {
        if part.may_have_more
            && let Some((last, _)) = part.items.last()
        {
            self.narrow(last.clone());
        }
        for (key, item) in part.items {
            // Parts are in key order: nothing that follows is within the frontier either.
            if self.frontier.as_ref().is_some_and(|frontier| key > *frontier) {
                break;
            }
            let json_bytes = Blob(key.clone()).json_len() + Blob(item.value.clone()).json_len() + ITEM_OVERHEAD_BYTES;
            self.json_bytes += json_bytes;
            self.items.insert(key, Kept { partition: part.partition, item, json_bytes });
            while self.items.len() > self.limit || (self.json_bytes > PAGE_BYTES_MAX && self.items.len() > 1) {
                self.drop_last();
                if let Some((last, _)) = self.items.last_key_value() {
                    self.frontier = Some(last.clone());
                }
            }
        }
    }

    fn narrow(&mut self, last_known: Bytes) {
        if self.frontier.as_ref().is_some_and(|frontier| *frontier <= last_known) {
            return;
        }
        while self.items.last_key_value().is_some_and(|(key, _)| *key > last_known) {
            self.drop_last();
        }
        self.frontier = Some(last_known);
    }

    fn drop_last(&mut self) {
        if let Some((_, dropped)) = self.items.pop_last() {
            self.json_bytes -= dropped.json_bytes;
        }
    }

    /// The page's last key, where there may be more after it.
    fn last(&self) -> Option<Bytes> {
        self.frontier.as_ref().and(self.items.last_key_value()).map(|(key, _)| key.clone())
    }

    /// The page, and the scan's cursor where it goes on.
    pub(super) fn into_json(self, history: HistoryId, timestamp: SessionToken, bounds: Bounds) -> Bytes {
        let cursor = self.last().map(|last_key| Cursor { token: timestamp.clone(), bounds, last_key }.to_text());
        let mut json = Vec::with_capacity(self.json_bytes + 16 * 1024);
        let items = self.items.into_iter().map(|(key, Kept { partition, item, .. })| PageItem {
            key: Blob(key),
            value: Blob(item.value),
            version: SessionToken::of(history, Timestamp { partition, offset: item.version }),
        });
        let page = Page { items: items.collect(), cursor, timestamp };
        serde_json::to_writer(&mut json, &page).expect("a page is plain JSON, and memory takes it");
        json.shrink_to_fit();
        Bytes::from(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duramen_common::Offset;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn item() -> Item {
        Item { value: Bytes::from_static(b"v"), version: Offset::ZERO }
    }

    proptest! {
        /// Goal: pages give every key once, in order, whatever the partitions cut their own pages to.
        /// Method: parts of random keys, each cut at a random length; follow the pages to the end.
        #[test]
        fn pages_give_every_key_once_in_order(
            keys in proptest::collection::vec(proptest::collection::btree_set("[a-d]{1,3}", 0..30), 1..4),
            limit in 1usize..6,
            cut in 1usize..5,
        ) {
            let mut seen = BTreeSet::new();
            let parts: Vec<Vec<String>> = keys
                .into_iter()
                .map(|keys| keys.into_iter().filter(|key| seen.insert(key.clone())).collect())
                .collect();
            let mut after: Option<Bytes> = None;
            let mut given = Vec::new();
            loop {
                let mut page = PageBuilder::new(limit);
                for (number, keys) in parts.iter().enumerate() {
                    let frontier = page.frontier.clone();
                    let is_after = |key: &str| after.as_ref().is_none_or(|after| key.as_bytes() > &after[..]);
                    let is_within = |key: &str| frontier.as_ref().is_none_or(|end| key.as_bytes() <= &end[..]);
                    let rest: Vec<_> = keys.iter().filter(|key| is_after(key) && is_within(key)).collect();
                    let given = rest.iter().take(cut.min(limit + 1));
                    page.add(Part {
                        partition: PartitionId::new(number as u16),
                        may_have_more: rest.len() > cut.min(limit + 1),
                        items: given.map(|key| (Bytes::copy_from_slice(key.as_bytes()), item())).collect(),
                    });
                }
                let last = page.last();
                prop_assert!(page.items.len() <= limit);
                given.extend(page.items.into_keys().map(|key| String::from_utf8(key.to_vec()).unwrap()));
                match last {
                    None => break,
                    Some(last) => after = Some(last),
                }
            }
            prop_assert_eq!(given, seen.into_iter().collect::<Vec<_>>());
        }
    }

    fn page_of(values: impl IntoIterator<Item = Bytes>) -> PageBuilder {
        let item = |value| Item { value, version: Offset::ZERO };
        let items =
            values.into_iter().enumerate().map(|(number, value)| (Bytes::from(vec![number as u8]), item(value)));
        let mut page = PageBuilder::new(100);
        page.add(Part { partition: PartitionId::new(0), items: items.collect(), may_have_more: false });
        page
    }

    /// Goal: what a page holds is counted as its caller gets it, escapes included.
    #[test]
    fn a_page_of_large_values_ends_early_and_says_so() {
        let mib = 1024 * 1024;
        for (byte, count) in [(b'v', 7), (b'"', 3), (0xff, 5), (0, 1)] {
            let page = page_of((0..20).map(|_| Bytes::from(vec![byte; mib])));
            assert_eq!(page.last(), Some(Bytes::from(vec![count - 1])), "{byte}");
            let estimated = page.json_bytes;
            let json = page.into_json("c7f3a1".parse().unwrap(), "c7f3a1.".parse().unwrap(), Bounds::default());
            assert!(json.len() <= estimated + 1024 && estimated <= PAGE_BYTES_MAX, "{} of {estimated}", json.len());
        }
    }

    #[test]
    fn an_item_over_the_limit_of_a_page_is_a_page_of_its_own() {
        let page = page_of((0..3).map(|_| Bytes::from(vec![0; 2 * 1024 * 1024])));
        assert_eq!((page.items.len(), page.last()), (1, Some(Bytes::from_static(&[0]))));
        let page = page_of([Bytes::from(vec![0; 2 * 1024 * 1024])]);
        assert_eq!((page.items.len(), page.last()), (1, None));
    }
}
