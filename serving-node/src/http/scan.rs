//! `GET /v1/kv`: one page of keys, in the order of their bytes, over all partitions.
//!
//! * In: prefix, start (included), end (excluded), limit, cursor. Out: items, and a cursor where there may be more.
//! * Invariant: a page is one applied end per partition; the next page is never older, since the cursor carries the
//!   page's token.
//! * Deliberately absent: one position over all partitions. A linearizable scan is so per partition.
//! * Source: DESIGN §4.

use super::Api;
use super::body::ResponseBody;
use super::cursor::{Bounds, Cursor};
use super::errors::Failure;
use super::extract::{self, Query};
use super::headers::{LOG_TIMESTAMP, SERVER_TIMING, token_value};
use super::reads::{self, ReadOptions};
use crate::partitions::Partitions;
use crate::view::{Item, SCAN_BYTES_MAX};
use bytes::Bytes;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{Blob, Offset, PartitionId, ProblemKind, SessionToken, Timestamp};
use futures_util::future::try_join_all;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use serde::Serialize;
use std::ops::Bound;

/// What the query may say.
const PARAMETERS: [&str; 7] = ["prefix", "start", "end", "limit", "cursor", "after", "consistency"];
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// A page ends after this much. Unit: bytes of keys and values.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

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

/// What one partition gave: items in key order, and whether it may have more behind them.
struct Part {
    partition: PartitionId,
    items: Vec<(Bytes, Item)>,
    may_have_more: bool,
}

/// The handler.
pub(crate) async fn get(api: &Api, partitions: &Partitions, parts: &Parts) -> Result<Response<ResponseBody>, Failure> {
    let query = Query::parse(parts.uri.query(), &PARAMETERS)?;
    let limit = limit_of(&query)?;
    let asked = Bounds::of_query(&query)?;
    let cursor = query.one("cursor")?.filter(|text| !text.is_empty()).map(Cursor::parse).transpose()?;
    let (bounds, carried) = match cursor {
        None => (asked.unwrap_or_default(), None),
        Some(cursor) => {
            let bounds = cursor.continue_of(asked)?;
            extract::check_token(&cursor.token, partitions.history(), partitions.count())?;
            (bounds, Some(cursor.token))
        }
    };
    let options = ReadOptions::parse(api, partitions, &parts.headers, &query, carried)?;
    let wanted = try_join_all(partitions.iter().map(|view| options.wait_for(view))).await?;
    let timing = options.server_timing();
    let (read, timestamp) = {
        let _turn = api.scans.acquire().await;
        let (partitions, bounds) = (partitions.clone(), bounds.clone());
        let reading = api.seams.threads.run(move || read_parts(&partitions, &wanted, &bounds, limit));
        reading.await.map_err(|_| Failure::starting("the scan was cut off: this node is stopping"))??
    };
    let (items, last) = merge(read, limit);
    let cursor = last.map(|last_key| Cursor { token: timestamp.clone(), bounds: bounds.clone(), last_key }.to_text());
    let history = partitions.history();
    let items = items.into_iter().map(|(partition, key, item)| PageItem {
        key: Blob(key),
        value: Blob(item.value),
        version: SessionToken::of(history, Timestamp { partition, offset: item.version }),
    });
    let position = token_value(&timestamp);
    let page = Page { items: items.collect(), cursor, timestamp };
    let mut response = super::json(&page);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(LOG_TIMESTAMP, position);
    response.headers_mut().insert(SERVER_TIMING, timing);
    Ok(response)
}

fn limit_of(query: &Query<'_>) -> Result<usize, Failure> {
    let Some(text) = query.one("limit")? else { return Ok(LIMIT_DEFAULT) };
    let digits = (1..=4).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let limit = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    limit.filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
        Failure::new(ProblemKind::BadRequest, format!("limit is a number from 1 to {LIMIT_MAX}"))
            .with("limit", LIMIT_MAX)
    })
}

/// Reads up to one more than `limit` items of each partition, each at one applied end, none before the `wanted` ones.
fn read_parts(
    partitions: &Partitions,
    wanted: &[Offset],
    bounds: &Bounds,
    limit: usize,
) -> Result<(Vec<Part>, SessionToken), Failure> {
    let mut timestamp = SessionToken::new(partitions.history());
    let mut read = Vec::with_capacity(usize::from(partitions.count()));
    let start = bounds.start.as_ref().map_or(Bound::Unbounded, |(key, is_included)| {
        if *is_included { Bound::Included(&key[..]) } else { Bound::Excluded(&key[..]) }
    });
    let end = bounds.end.as_ref().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
    for (view, &wanted) in partitions.iter().zip(wanted) {
        let page = view.scan(start, end, limit + 1).map_err(|error| Failure::of_read(&error))?;
        ReadOptions::check_read(view, wanted, page.applied_end)?;
        let is_too_new = is_planted(Plant::PagePositionTooNew);
        let position = if is_too_new { view.committed_end_hint() } else { page.applied_end };
        reads::see(&mut timestamp, view.partition(), position);
        let bytes: usize = page.value.iter().map(|(key, item)| key.len() + item.value.len()).sum();
        let may_have_more = page.value.len() > limit || bytes >= SCAN_BYTES_MAX;
        read.push(Part { partition: view.partition(), items: page.value, may_have_more });
    }
    Ok((read, timestamp))
}

/// The page: the smallest keys of all parts, and where the next page begins (behind this key) if there may be one.
///
/// Behind the last key of a part that may have more, nothing is known; a page never goes further than that.
fn merge(read: Vec<Part>, limit: usize) -> (Vec<(PartitionId, Bytes, Item)>, Option<Bytes>) {
    let frontier = read.iter().filter(|part| part.may_have_more);
    let frontier = frontier.filter_map(|part| part.items.last().map(|(key, _)| key.clone())).min();
    let mut all: Vec<(PartitionId, Bytes, Item)> = read
        .into_iter()
        .flat_map(|part| part.items.into_iter().map(move |(key, item)| (part.partition, key, item)))
        .filter(|(_, key, _)| frontier.as_ref().is_none_or(|frontier| key <= frontier))
        .collect();
    all.sort_unstable_by(|(_, one, _), (_, other, _)| one.cmp(other));
    let mut bytes = 0;
    let within = all.iter().take(limit).take_while(|(_, key, item)| {
        let fits = bytes < PAGE_BYTES_MAX;
        bytes += key.len() + item.value.len();
        fits
    });
    let count = within.count();
    let has_more = frontier.is_some() || all.len() > count;
    all.truncate(count);
    let last = if has_more { all.last().map(|(_, key, _)| key.clone()) } else { None };
    (all, last)
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let read = parts.iter().enumerate().map(|(number, keys)| {
                    let rest: Vec<_> = keys
                        .iter()
                        .filter(|key| after.as_ref().is_none_or(|after| key.as_bytes() > &after[..]))
                        .collect();
                    let page = rest.iter().take(cut.min(limit + 1));
                    Part {
                        partition: PartitionId::new(number as u16),
                        may_have_more: rest.len() > cut.min(limit + 1),
                        items: page.map(|key| (Bytes::copy_from_slice(key.as_bytes()), item())).collect(),
                    }
                });
                let (items, last) = merge(read.collect(), limit);
                prop_assert!(items.len() <= limit);
                given.extend(items.into_iter().map(|(_, key, _)| String::from_utf8(key.to_vec()).unwrap()));
                match last {
                    None => break,
                    Some(last) => after = Some(last),
                }
            }
            prop_assert_eq!(given, seen.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_page_of_large_values_ends_early_and_says_so() {
        let large = Item { value: Bytes::from(vec![0; 1024 * 1024]), version: Offset::ZERO };
        let items = (0..20u8).map(|number| (Bytes::from(vec![number]), large.clone())).collect();
        let (items, last) = merge(vec![Part { partition: PartitionId::new(0), items, may_have_more: false }], 100);
        assert_eq!(items.len(), 8);
        assert_eq!(last, Some(Bytes::from_static(&[7])));
    }
}
