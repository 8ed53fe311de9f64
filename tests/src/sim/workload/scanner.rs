//! Scans, page by page, each page at any node; and digests of every serving node.
//!
//! * A page is asked for as reads are: linearizable, within the session, stale. What continues a scan carries its cursor.

use super::super::network::HostId;
use super::super::seen::{Consistency, Digest, Page, Seen};
use super::caller::{Answer, Call};
use super::client::Client;
use super::reader::word;
use crate::checkers::Outcome;
use bytes::Bytes;
use duramen_common::{Blob, Offset, PartitionId, SessionToken, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// Most pages of one scan.
const PAGES_MAX: usize = 6;

/// A page that was asked for.
struct Asked {
    consistency: Consistency,
    token: Option<SessionToken>,
    start: Bytes,
    after: Option<Bytes>,
    limit: usize,
}

impl Client {
    /// A scan of some pages, and tells the witness.
    pub(super) async fn scan(&mut self) {
        let consistency = *self.rng.pick(&[
            Consistency::Linearizable,
            Consistency::Session,
            Consistency::Session,
            Consistency::Stale,
        ]);
        let start = if self.rng.in_thousand(300) { self.keys.any(&mut self.rng).1 } else { Bytes::new() };
        let limit = *self.rng.pick(&[1, 2, 3, 5, 100]);
        let mut cursor: Option<(String, SessionToken, Bytes)> = None;
        for _ in 0..PAGES_MAX {
            let is_session = consistency == Consistency::Session;
            let session = self.session.clone().filter(|_| is_session || self.rng.in_thousand(100));
            if is_session && session.is_none() {
                return;
            }
            let mut target = format!("/v1/kv?consistency={}&limit={limit}", word(consistency));
            if !start.is_empty() {
                target += &format!("&start={}", super::super::witness::text(&start));
            }
            let (mut token, mut after) = (session.clone(), None);
            if let Some((text, of_page, last)) = &cursor {
                target += &format!("&cursor={text}");
                let merged = token.get_or_insert_with(|| of_page.clone());
                // Of two histories they cannot be: that would have been seen.
                let _ = merged.merge(of_page);
                after = Some(last.clone());
            }
            let mut call = Call::new("GET", target);
            if let Some(session) = &session {
                call = call.header("read-after", session.to_string());
            }
            let asked = Asked { consistency, token, start: start.clone(), after, limit };
            match self.page(call, asked).await {
                Some(next) => cursor = Some(next),
                None => return,
            }
        }
    }

    /// One page; where the next one begins, if there is one.
    async fn page(&mut self, call: Call, asked: Asked) -> Option<(String, SessionToken, Bytes)> {
        let known = self.stage.witness.lock().known();
        let node = self.any_node();
        let answer = self.ask(call, node).await;
        let page = answer.as_ref().and_then(|answer| self.page_of(answer, node, asked));
        let outcome = if page.is_some() { Outcome::Ok(()) } else { Outcome::Failed };
        self.stage.witness.lock().count(&outcome);
        let page = Page { known, ..page? };
        let answer = answer?.json();
        let position: Option<SessionToken> = answer["timestamp"].as_str().and_then(|text| text.parse().ok());
        let last = page.items.last().map(|(key, ..)| key.clone());
        self.stage.witness.lock().see(Seen::Page(page));
        let position = position?;
        self.session_merges(&position);
        Some((answer["cursor"].as_str()?.to_owned(), position, last?))
    }

    /// Asks, with some patience.
    async fn ask(&mut self, call: Call, node: HostId) -> Option<Answer> {
        let wait = self.rng.within(1, 4);
        let call = call.header("prefer", format!("wait={wait}")).within(Duration::from_millis(wait * 1_000 + 500));
        call.send(&self.stage.wire, node).await.ok()
    }

    fn page_of(&self, answer: &Answer, node: HostId, asked: Asked) -> Option<Page> {
        let body = answer.json();
        let items: Option<Vec<_>> = body["items"].as_array().and_then(|items| items.iter().map(item).collect());
        let (items, position) = match (answer.status.as_u16(), items, answer.position()) {
            (200, Some(items), Some(position)) => (items, position),
            (503 | 429, ..) => return None,
            (status, ..) => {
                self.wrong(5, format!("a page was answered {status}: {body}"));
                return None;
            }
        };
        let ends = (0..self.stage.partitions).map(PartitionId::new);
        let ends = ends.map(|partition| (partition, position.position(partition).map_or(Offset::ZERO, Offset::next)));
        let Asked { consistency, token, start, after, limit } = asked;
        let (has_more, node) = (!body["cursor"].is_null(), self.node_name(node));
        let (ends, client, known) = (ends.collect(), self.number, Default::default());
        Some(Page { client, node, consistency, token, start, after, limit, items, has_more, ends, known })
    }

    /// Digests of one partition, of every serving node, not older than what the session has seen.
    pub(super) async fn compare_digests(&mut self) {
        let (partition, _) = self.keys.any(&mut self.rng);
        let token = self.session.clone();
        for (node, name) in self.stage.serving.clone() {
            let mut call = Call::new("GET", format!("/v1/partitions/{partition}/digest"));
            if let Some(token) = &token {
                call = call.header("read-after", token.to_string());
            }
            let Some(answer) = self.ask(call, node).await else { continue };
            let body = answer.json();
            let told = (answer.status.as_u16(), body["digest"].as_str(), body["applied_end"].as_u64());
            let (digest, applied_end) = match told {
                (200, Some(digest), Some(end)) => (digest.to_owned(), Offset::new(end)),
                (503 | 429, ..) => continue,
                (status, ..) => return self.wrong(4, format!("a digest was answered {status}: {body}")),
            };
            let mut witness = self.stage.witness.lock();
            witness.count(&Outcome::Ok(()));
            witness.see(Seen::Digest(Digest { node: name, partition, applied_end, digest, token: token.clone() }));
        }
    }
}

fn item(item: &Value) -> Option<(Bytes, Timestamp, Bytes)> {
    let blob = |name: &str| serde_json::from_value::<Blob>(item[name].clone()).ok().map(|blob| blob.0);
    let version: SessionToken = item["version"].as_str()?.parse().ok()?;
    Some((blob("key")?, version.single()?, blob("value")?))
}
