//! A follower of the feed that is cut off again and again, and goes on where it was.

use super::caller::call;
use super::clients::Clients;
use super::judge::{Change, Seen};
use bytes::Bytes;
use duramen_common::{Blob, HistoryId, SessionToken};
use serde_json::Value;

/// What it was given so far.
#[derive(Clone)]
pub(super) struct Followed {
    /// The id of the last event that had one.
    token: String,
    /// By partition.
    changes: Vec<Vec<Change>>,
}

impl Followed {
    /// Nothing yet.
    pub(super) fn new(history: HistoryId, partitions: u16) -> Followed {
        Followed { token: SessionToken::new(history).to_string(), changes: vec![Vec::new(); partitions.into()] }
    }

    /// For the judge.
    pub(super) fn seen(self) -> Seen {
        Seen::Feed { changes: self.changes }
    }

    /// Whole events off the front of a text. Those of a record count once its last one, which has an id, is there.
    fn take(&mut self, text: &mut String, record: &mut Vec<(usize, Change)>) -> usize {
        let mut events = 0;
        while let Some(end) = text.find("\n\n") {
            let block: String = text.drain(..end + 2).collect();
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if matches!(field("event"), Some("put" | "delete")) {
                record.push(change(field("data").unwrap_or_default()));
            }
            if let Some(id) = field("id") {
                record.drain(..).for_each(|(partition, change)| self.changes[partition].push(change));
                id.clone_into(&mut self.token);
            }
            events += 1;
        }
        events
    }
}

fn change(data: &str) -> (usize, Change) {
    let data: Value = serde_json::from_str(data).expect("an event's data is JSON");
    let blob = |value: &Value| serde_json::from_value::<Blob>(value.clone()).expect("keys and values are blobs").0;
    let version: Option<SessionToken> = data["version"].as_str().and_then(|text| text.parse().ok());
    let version = version.and_then(|token| token.single()).expect("an event names its version");
    let value = data.get("value").map(blob);
    (version.partition.get().into(), (version.offset, blob(&data["key"]), value))
}

impl Clients {
    /// Follows, is cut off after some events, goes on; never ends by itself. What it has is always in `followed`.
    pub(super) async fn follow(self, followed: std::sync::Arc<std::sync::Mutex<Followed>>) {
        let followed = || followed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            let headers = [("last-event-id", followed().token.clone())];
            let answer = call(&self.node, "GET", "/v1/feed", &headers, Bytes::new()).await;
            let (mut text, mut record) = (String::new(), Vec::new());
            let mut left = 1 + self.chance.below(30);
            let Some(mut pieces) = answer.pieces else {
                tokio::time::sleep(self.chance.ms(100)).await;
                continue;
            };
            while left > 0
                && let Some(piece) = pieces.recv().await
            {
                text.push_str(&String::from_utf8_lossy(&piece));
                let events = followed().take(&mut text, &mut record);
                left = left.saturating_sub(events);
            }
        }
    }
}
