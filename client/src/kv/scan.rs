//! Scans: pages of keys in the order of their bytes, over cursors.
//!
//! * A page is consistent per partition; its cursor carries its token, so that a later page is never from before it.

use super::client::Client;
use super::error::Error;
use super::options::ScanQuery;
use super::version::Version;
use bytes::Bytes;
use duramen_common::{Blob, SessionToken};
use futures_util::Stream;
use serde::{Deserialize, Deserializer};
use std::collections::VecDeque;

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ScanItem {
    /// The key.
    #[serde(deserialize_with = "bytes_of_blob")]
    pub key: Bytes,
    /// Its value.
    #[serde(deserialize_with = "bytes_of_blob")]
    pub value: Bytes,
    /// Timestamp of the write that set it.
    pub version: Version,
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Page {
    /// Its keys, ascending.
    pub items: Vec<ScanItem>,
    /// Where the next page begins; `None` at the end.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The positions that were served.
    #[serde(rename = "timestamp")]
    pub seen: SessionToken,
}

/// Goes through the pages of a scan.
pub struct Pager {
    client: Client,
    query: ScanQuery,
    state: State,
    items: VecDeque<ScanItem>,
}

enum State {
    Page(Option<String>),
    Ended,
}

impl Pager {
    pub(super) fn new(client: Client, query: ScanQuery) -> Pager {
        Pager { client, query, state: State::Page(None), items: VecDeque::new() }
    }

    /// The next page; `None` after the last. After an error, the same page is tried again.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        let State::Page(cursor) = &self.state else { return Ok(None) };
        let page = self.client.scan_page(&self.query, cursor.as_deref()).await?;
        self.state = page.cursor.clone().map_or(State::Ended, |cursor| State::Page(Some(cursor)));
        Ok(Some(page))
    }

    /// The next item; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<ScanItem>, Error> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            match self.next_page().await? {
                Some(page) => self.items.extend(page.items),
                None => return Ok(None),
            }
        }
    }

    /// The items as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<ScanItem, Error>> + Send {
        futures_util::stream::unfold(Some(self), async |pager| {
            let mut pager = pager?;
            match pager.next().await {
                Ok(Some(item)) => Some((Ok(item), Some(pager))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

fn bytes_of_blob<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    Ok(Blob::deserialize(deserializer)?.0)
}
