//! `GET /v1/feed`.

use super::*;
use crate::testing;
use duramen_common::batch::GuardCondition;
use duramen_common::{Offset, PartitionId};
use serde_json::json;
use tokio::net::tcp::OwnedWriteHalf;

const P0: PartitionId = PartitionId::new(0);

/// One event, as it came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    kind: String,
    id: Option<String>,
    pub(super) data: Value,
}

/// An open feed.
pub(super) struct Feed {
    pub(super) answer: Answer,
    reading: tokio::net::tcp::OwnedReadHalf,
    _writing: OwnedWriteHalf,
    raw: Vec<u8>,
    text: String,
}

impl Feed {
    pub(super) async fn open(harness: &Harness, target: &str, headers: &[(&str, &str)]) -> Feed {
        let (mut reading, mut writing) = TcpStream::connect(harness.addr()).await.unwrap().into_split();
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", harness.addr());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        writing.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        let end = loop {
            if let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            let read = tokio::time::timeout(HANG, reading.read_buf(&mut raw)).await.expect("a head comes at once");
            assert!(read.unwrap() > 0, "closed: {}", raw.escape_ascii());
        };
        let rest = raw.split_off(end + 4);
        let answer = Answer::parse(&raw, true).unwrap();
        Feed { answer, reading, _writing: writing, raw: rest, text: String::new() }
    }

    /// Reads more; false at the end of the stream.
    async fn more(&mut self) -> bool {
        loop {
            if let Some(end) = self.raw.windows(2).position(|two| two == b"\r\n") {
                let size = usize::from_str_radix(std::str::from_utf8(&self.raw[..end]).unwrap(), 16).unwrap();
                if self.raw.len() >= end + 2 + size + 2 {
                    let chunk = self.raw[end + 2..end + 2 + size].to_vec();
                    self.raw.drain(..end + 2 + size + 2);
                    self.text += std::str::from_utf8(&chunk).unwrap();
                    return size > 0;
                }
            }
            let read = tokio::time::timeout(HANG, self.reading.read_buf(&mut self.raw)).await;
            if read.expect("a feed is never silent for long").unwrap_or(0) == 0 {
                return false;
            }
        }
    }

    /// What comes until the stream ends, but progress.
    pub(super) async fn rest(&mut self) -> String {
        while self.more().await {}
        std::mem::take(&mut self.text)
    }

    /// The next event, progress included.
    async fn next_of_any_kind(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.text.clone().split_once("\n\n") {
                self.text = rest.to_owned();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
                assert!(
                    event.lines().all(|line| ["event: ", "id: ", "data: "].iter().any(|name| line.starts_with(name)))
                );
                return Event {
                    kind: field("event").unwrap().to_owned(),
                    id: field("id").map(str::to_owned),
                    data: serde_json::from_str(field("data").unwrap()).unwrap(),
                };
            }
            assert!(self.more().await, "the feed has ended");
        }
    }

    /// The next event that is no progress.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let event = self.next_of_any_kind().await;
            if event.kind != "progress" {
                return event;
            }
        }
    }
}

/// put and delete with key, value and version; id is the token; text/event-stream; without `from`, from now.
#[tokio::test]
async fn a_feed_gives_what_comes_from_now_on() {
    let harness = Harness::start(1).await;
    harness.put("before", "1").await;
    let mut feed = Feed::open(&harness, "/v1/feed", &[]).await;
    assert_eq!((feed.answer.status, feed.answer.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(feed.answer.header("x-accel-buffering"), Some("no"));
    assert_eq!(feed.answer.timestamp(), "c7f3a1.0:0");
    let put = harness.put("apple", "1").await;
    let delete = harness.delete_with("apple", &[]).await;
    let event = feed.next().await;
    assert_eq!(event.kind, "put");
    assert_eq!(event.id, Some(put.timestamp()));
    assert_eq!(event.data, json!({"key": "apple", "value": "1", "version": put.timestamp()}));
    let event = feed.next().await;
    assert_eq!((&event.kind[..], &event.id), ("delete", &Some(delete.timestamp())));
    assert_eq!(event.data, json!({"key": "apple", "version": delete.timestamp()}), "no value on delete");
    harness.stop().await;
}

/// A progress event each second when idle, with an id to resume from.
#[tokio::test]
async fn an_idle_feed_says_how_far_it_is() {
    let harness = Harness::start(2).await;
    let mut feed = Feed::open(&harness, "/v1/feed?prefix=none", &[]).await;
    let put = harness.put("apple", "1").await;
    let event = feed.next_of_any_kind().await;
    assert_eq!((&event.kind[..], &event.id), ("progress", &Some(put.timestamp())), "filtered records count as given");
    assert_eq!(event.data, json!({"timestamp": put.timestamp()}));
    assert_eq!(feed.next_of_any_kind().await.kind, "progress");
    harness.stop().await;
}

/// From an empty token everything is given, across partitions, with ids that name all of it.
#[tokio::test]
async fn a_partition_that_a_token_does_not_name_starts_at_0() {
    let harness = Harness::start(4).await;
    let mut wanted = std::collections::BTreeMap::new();
    for number in 0..40 {
        let put = harness.put(&format!("k{number}"), "v").await;
        wanted.insert(put.timestamp(), format!("k{number}"));
    }
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    let mut last = String::new();
    for _ in 0..40 {
        let event = feed.next().await;
        assert_eq!(wanted.remove(event.data["version"].as_str().unwrap()).as_deref(), event.data["key"].as_str());
        last = event.id.unwrap();
    }
    assert!(wanted.is_empty());
    assert_eq!(last.matches(':').count(), 4);
    harness.stop().await;
}

/// Goal: no gap and no repeat across reconnects with Last-Event-ID, while writers write and records have several events.
/// Method: cut the feed off after each few events; what was given between ids must be each record, once, in order.
#[tokio::test]
async fn reconnects_leave_no_gap_and_repeat_nothing() {
    let harness = Harness::start(2).await;
    let addr = harness.addr();
    let writing = tokio::spawn(async move {
        for number in 0..60 {
            let body = json!({"ops": [
                {"put": {"key": format!("{{a}}{number}"), "value": "x"}},
                {"put": {"key": format!("{{a}}{number}"), "value": "y"}},
                {"delete": {"key": format!("{{a}}{number}")}},
            ]});
            let headers = [("content-type", "application/json")];
            let txn = send(addr, "POST", "/v1/txn", &headers, body.to_string().as_bytes()).await;
            assert_eq!(txn.status, 200);
            assert_eq!(send(addr, "PUT", &format!("/v1/kv/b{number}"), &[], b"z").await.status, 204);
        }
    });
    let mut resume = "c7f3a1.".to_owned();
    let mut given: Vec<(String, usize)> = Vec::new();
    let mut pieces = 1;
    while given.len() < 120 {
        // Both are there: Last-Event-ID wins.
        let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[("last-event-id", &resume)]).await;
        let mut events_of_record = 0;
        for _ in 0..pieces {
            let event = feed.next().await;
            events_of_record += 1;
            if let Some(id) = event.id {
                given.push((event.data["version"].as_str().unwrap().to_owned(), events_of_record));
                resume = id;
                events_of_record = 0;
                if given.len() == 120 {
                    break;
                }
            }
        }
        // At least a whole record, so that it comes forward; sometimes cut within one.
        pieces = if pieces < 3 { 4 } else { pieces % 5 + 3 };
    }
    writing.await.unwrap();
    let mut versions: Vec<&String> = given.iter().map(|(version, _)| version).collect();
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 120, "a record was given twice, or not");
    for (version, events) in &given {
        assert!(matches!(events, 1 | 3), "{version}: {events} events of one record in one piece");
    }
    for partition in [0u16, 1] {
        let offsets: Vec<u64> = given
            .iter()
            .filter_map(|(version, _)| version.strip_prefix(&format!("c7f3a1.{partition}:")))
            .map(|offset| offset.parse().unwrap())
            .collect();
        assert!(offsets.is_sorted(), "partition {partition}: {offsets:?}");
    }
    harness.stop().await;
}

/// Only a record's last event carries an id.
#[tokio::test]
async fn only_the_last_event_of_a_record_has_an_id() {
    let harness = Harness::start(1).await;
    harness.log.push(P0, [testing::put("a", "1").and(testing::put("x", "2")).and(testing::delete("ab"))]);
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.&prefix=a", &[]).await;
    let first = feed.next().await;
    assert_eq!((&first.data["key"], first.id), (&"a".into(), None));
    let second = feed.next().await;
    assert_eq!((&second.data["key"], second.id), (&"ab".into(), Some("c7f3a1.0:0".to_owned())));
    harness.stop().await;
}

/// Records whose guards failed, and events, are not given.
#[tokio::test]
async fn records_without_effect_are_not_given() {
    let harness = Harness::start(1).await;
    let absent = |key| testing::guard(key, GuardCondition::Absent);
    harness.log.push(
        P0,
        [
            testing::put("a", "1").when(absent("a")),
            testing::put("a", "2").when(absent("a")),
            testing::put("b", "3").when(absent("b")),
        ],
    );
    harness.log.push(P0, [testing::event("opaque")]);
    harness.log.push(P0, [testing::put("c", "4")]);
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    for (value, offset) in [("1", 0), ("3", 2), ("4", 4)] {
        let event = feed.next().await;
        assert_eq!((&event.data["value"], event.id), (&value.into(), Some(format!("c7f3a1.0:{offset}"))));
    }
    harness.stop().await;
}

/// History that is no longer in memory comes from the log.
#[tokio::test]
async fn an_old_position_is_read_from_the_log() {
    let mut forgetful = config();
    forgetful.partitions.recent_bytes_max = 0;
    let harness = Harness::start_with(forgetful, Arc::new(MemoryLog::new(history(), 1))).await;
    for number in 0..50 {
        harness.put(&format!("k{number}"), &"v".repeat(32 * 1024)).await;
    }
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.0:9", &[]).await;
    for number in 10..50 {
        assert_eq!(feed.next().await.data["key"], format!("k{number}"));
    }
    let put = harness.put("live", "1").await;
    assert_eq!(feed.next().await.id, Some(put.timestamp()));
    harness.stop().await;
}

/// A consumer that does not read holds its own feed back, and nothing else; when it reads on, nothing is missing.
#[tokio::test]
async fn a_slow_consumer_slows_only_itself() {
    let harness = Harness::start(1).await;
    let mut slow = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    let value = "v".repeat(60 * 1024);
    for number in 0..200 {
        assert_eq!(harness.put(&format!("k{number}"), &value).await.status, 204);
    }
    let mut fast = Feed::open(&harness, "/v1/feed?from=c7f3a1.0:197", &[]).await;
    assert_eq!(fast.next().await.data["key"], "k198");
    for number in 0..200 {
        assert_eq!(slow.next().await.data["key"], format!("k{number}"));
    }
    harness.stop().await;
}

/// 410 compacted below the horizon, with the earliest position; 0 is always allowed and gives the fold.
#[tokio::test]
async fn a_position_below_the_horizon_is_410() {
    let harness = Harness::start(1).await;
    for number in 0..10 {
        harness.log.push(P0, [testing::put("a", &number.to_string())]);
    }
    let horizon = harness.log.compact(P0, Offset::new(8), Offset::new(8));
    assert_eq!(horizon, Offset::new(8));
    let token = harness.put("b", "1").await.timestamp();
    harness.get(&format!("/v1/kv/b?after={token}")).await;
    let refused = harness.get("/v1/feed?from=c7f3a1.0:3").await;
    let earliest = refused.problem(410, "compacted")["earliest"].as_str().unwrap().to_owned();
    assert_eq!(earliest, "c7f3a1.0:7");
    let mut feed = Feed::open(&harness, &format!("/v1/feed?from={earliest}"), &[]).await;
    assert_eq!(feed.next().await.id, Some("c7f3a1.0:8".to_owned()));
    assert_eq!(Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await.answer.status, 200);
    harness.stop().await;
}

/// Goal: a record that is settled in the log while its unsettled bytes are still in memory is given all the same.
/// Method: guarded records, applied; compact; a feed from 0 meets outcomes that are forgotten here.
#[tokio::test]
async fn what_is_settled_meanwhile_comes_from_the_log() {
    let harness = Harness::start(1).await;
    let absent = |key| testing::guard(key, GuardCondition::Absent);
    harness.log.push(P0, [testing::put("a", "1").when(absent("a")), testing::put("a", "2").when(absent("a"))]);
    harness.get("/v1/kv/a").await;
    harness.log.compact(P0, Offset::new(2), Offset::new(2));
    let put = harness.put("b", "1").await;
    harness.get("/v1/kv/b").await;
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    let event = feed.next().await;
    assert_eq!((&event.data["value"], event.id), (&"1".into(), Some("c7f3a1.0:0".to_owned())));
    assert_eq!(feed.next().await.id, Some(put.timestamp()));
    harness.stop().await;
}

/// 400 bad-token: malformed, of no partition, past the end; 503 where no leader can confirm "now".
#[tokio::test]
async fn a_feed_from_nowhere_is_refused() {
    let harness = Harness::start(1).await;
    for from in ["x", "", "c7f3a1.7:0", "c7f3a1.0:0", "c7f3a1.0:99"] {
        harness.get(&format!("/v1/feed?from={from}")).await.problem(400, "bad-token");
    }
    harness.get_with("/v1/feed", &[("last-event-id", "x")]).await.problem(400, "bad-token");
    harness.log.set_unavailable(true);
    harness.get_with("/v1/feed", &[("prefer", "wait=1")]).await.problem(503, "no-leader");
    harness.stop().await;
}

/// Feeds over the limit: 429; a feed that ends makes room.
#[tokio::test]
async fn feeds_are_limited_in_number() {
    let mut narrow = config();
    narrow.feeds_max = 1;
    let harness = Harness::start_with(narrow, Arc::new(MemoryLog::new(history(), 1))).await;
    let first = Feed::open(&harness, "/v1/feed", &[]).await;
    harness.get("/v1/feed").await.problem(429, "overloaded");
    drop(first);
    let opened = async { while Feed::open(&harness, "/v1/feed", &[]).await.answer.status != 200 {} };
    tokio::time::timeout(HANG, opened).await.expect("the first feed's place is free again");
    harness.stop().await;
}

/// Goal: a feed tells what reads can see. Method: a record of another namespace, which changes no key here, before one of ours.
#[tokio::test]
async fn records_of_other_namespaces_are_not_told() {
    let harness = Harness::start(1).await;
    let mut foreign = duramen_common::batch::Record::from(testing::put("foreign", "1"));
    foreign.namespace = 3;
    harness.log.push(P0, [foreign]);
    harness.log.push(P0, [testing::put("ours", "1")]);
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    let event = feed.next().await;
    assert_eq!(event.data["key"], json!("ours"), "{event:?}");
    harness.get("/v1/kv/foreign").await.problem(404, "not-found");
    harness.stop().await;
}
