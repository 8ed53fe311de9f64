//! `GET /v1/kv`: one page of keys, in the order of their bytes, over all partitions.
//!
//! * In: prefix, start (included), end (excluded), limit, cursor. Out: items, and a cursor where there may be more.
//! * Invariant: a page is one applied end per partition; the next page is never older, since the cursor carries the
//!   page's token.
//! * Deliberately absent: one position over all partitions. A linearizable scan is so per partition.
//! * Source: DESIGN §4.

use super::body::ResponseBody;
use super::cursor::{Bounds, Cursor};
use super::errors::Failure;
use super::extract::{self, ASKING_MIN, Query};
use super::headers::{LOG_TIMESTAMP, SERVER_TIMING, token_value};
use super::page::{PAGE_BYTES_MAX, PageBuilder, Part};
use super::reads::{self, ReadOptions};
use super::{Api, SCANS_MAX};
use crate::partitions::Partitions;
use crate::view::SCAN_BYTES_MAX;
use bytes::Bytes;
use duramen_common::budget::Room;
use duramen_common::planted::{Plant, is_planted};
use duramen_common::{Offset, ProblemKind, SessionToken};
use futures_util::future::try_join_all;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use std::ops::Bound;
use tokio::time::{Instant, timeout_at};

/// What the query may say.
const PARAMETERS: [&str; 7] = ["prefix", "start", "end", "limit", "cursor", "after", "consistency"];
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

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
    let mut room = Room::default();
    let (body, position) = loop {
        let (body, position) = read_page(api, partitions, &wanted, &bounds, limit, options.deadline).await?;
        if room.try_cover(&api.answers, body.len()) {
            break (body, position);
        }
        // What was read is let go while others hold everything.
        let needed = body.len().max(PAGE_BYTES_MAX);
        drop(body);
        room.cover(&api.answers, needed, options.deadline).await.map_err(|error| Failure::exhausted(&error))?;
    };
    let mut response = Response::new(ResponseBody::full(room.keep(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(LOG_TIMESTAMP, position);
    response.headers_mut().insert(SERVER_TIMING, timing);
    Ok(response)
}

/// One page as JSON, and the position that it was read at.
async fn read_page(
    api: &Api,
    partitions: &Partitions,
    wanted: &[Offset],
    bounds: &Bounds,
    limit: usize,
    deadline: Instant,
) -> Result<(Bytes, HeaderValue), Failure> {
    // However little a caller would wait, others get the time to end what they are just reading.
    let turn_deadline = deadline.max(Instant::now() + ASKING_MIN);
    let _turn = timeout_at(turn_deadline, api.scans.acquire()).await.map_err(|_| {
        Failure::new(ProblemKind::Overloaded, "too many scans are read here: try again, or ask another node")
            .with("limit", SCANS_MAX)
    })?;
    let (partitions, wanted, bounds) = (partitions.clone(), wanted.to_vec(), bounds.clone());
    let reading = api.seams.threads.run(move || {
        let (page, timestamp) = read_parts(&partitions, &wanted, &bounds, limit)?;
        let position = token_value(&timestamp);
        Ok((page.into_json(partitions.history(), timestamp, bounds), position))
    });
    reading.await.map_err(|_| Failure::starting("the scan was cut off: this node is stopping"))?
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

/// Reads what a page can use of each partition, each at one applied end, none before the `wanted` ones.
fn read_parts(
    partitions: &Partitions,
    wanted: &[Offset],
    bounds: &Bounds,
    limit: usize,
) -> Result<(PageBuilder, SessionToken), Failure> {
    let mut timestamp = SessionToken::new(partitions.history());
    let mut page = PageBuilder::new(limit);
    let start = bounds.start.as_ref().map_or(Bound::Unbounded, |(key, is_included)| {
        if *is_included { Bound::Included(&key[..]) } else { Bound::Excluded(&key[..]) }
    });
    for (view, &wanted) in partitions.iter().zip(wanted) {
        let frontier = page.frontier.clone();
        let end = match (&frontier, &bounds.end) {
            (Some(frontier), _) => Bound::Included(&frontier[..]),
            (None, Some(end)) => Bound::Excluded(&end[..]),
            (None, None) => Bound::Unbounded,
        };
        let read = view.scan(start, end, limit + 1).map_err(|error| Failure::of_read(&error))?;
        ReadOptions::check_read(view, wanted, read.applied_end)?;
        let is_too_new = is_planted(Plant::PagePositionTooNew);
        let position = if is_too_new { view.committed_end_hint() } else { read.applied_end };
        reads::see(&mut timestamp, view.partition(), position);
        let bytes: usize = read.value.iter().map(|(key, item)| key.len() + item.value.len()).sum();
        let may_have_more = read.value.len() > limit || bytes >= SCAN_BYTES_MAX;
        page.add(Part { partition: view.partition(), items: read.value, may_have_more });
    }
    Ok((page, timestamp))
}
