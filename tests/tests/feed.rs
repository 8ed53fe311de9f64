//! The change feed is the log: whole, in order, resumable anywhere.

use crate::e2e;
use bytes::Bytes;
use duramen_common::SessionToken;
use duramen_common::batch::Update;
use duramen_tests::checkers::feed::{FeedConnection, check};
use duramen_tests::checkers::sessions::{self, Session, SessionStep};
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::feed::{Feed, FeedEvent};
use duramen_tests::harness::http::{Http, HttpError, kv, path_of};
use duramen_tests::harness::{Cluster, Rng, log_lines};
use serde_json::json;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const WRITES: usize = 3000;

async fn history(http: &Http) -> String {
    http.get("/v1/status").expect(200).await.json()["history"].as_str().expect("a history").to_owned()
}

async fn change(feed: &mut Feed) -> FeedEvent {
    feed.next_change(SOON).await.expect("the feed goes on").expect("the feed does not end")
}

e2e! {
    /// Goal: the feed's form and start. Method: puts, a delete and a transaction before and after opening feeds from the
    /// beginning, from now, from a token and with a prefix.
    async fn the_feed_tells_changes_in_the_logs_order(places: 1, seconds: 60) {
        let cluster = Cluster::five().await;
        let http = cluster.http(0);
        let beginning = format!("{}.", history(&http).await);
        let first = http.put(kv("{f}1"), "one").expect(204).await;
        let mut feed = Feed::open(&cluster.http(1), &format!("?from={beginning}"), None).await.expect("a feed");
        assert_eq!(feed.head.status, 200, "{}", feed.head);
        assert!(feed.head.header("content-type").is_some_and(|media| media.starts_with("text/event-stream")));
        let event = change(&mut feed).await;
        assert_eq!(event.kind, "put");
        assert_eq!(event.data, json!({"key": "{f}1", "value": "one", "version": first.version().to_string()}));
        let id: SessionToken = event.id.clone().expect("a record's only event is its last").parse().expect("a token");
        assert_eq!(id, first.timestamp());

        let mut now = Feed::open(&http, "", None).await.expect("a feed");
        assert_eq!(now.next(SOON).await.expect("an event").expect("an event").kind, "progress", "idle: progress");
        let deleted = http.delete(kv("{f}1")).expect(204).await;
        let txn = json!({"if": [], "ops": [{"put": {"key": "{f}a", "value": "1"}}, {"put": {"key": "{f}b", "value": "2"}}]});
        let txn = http.post("/v1/txn", &txn).expect(200).await.json();
        for feed in [&mut feed, &mut now] {
            let event = change(feed).await;
            assert_eq!((event.kind.as_str(), event.key()), ("delete", b"{f}1".to_vec()));
            assert_eq!(event.version(), deleted.timestamp().to_string(), "{event:?}");
            assert!(event.data.get("value").is_none(), "{event:?}");
            let (a, b) = (change(feed).await, change(feed).await);
            assert_eq!((a.key(), a.id.is_some(), b.key(), b.id.is_some()), (b"{f}a".to_vec(), false, b"{f}b".to_vec(), true));
            assert_eq!((a.version(), b.version()), (txn["timestamp"].as_str().unwrap().to_owned(), a.version()));
        }
        http.put(kv("other"), "x").expect(204).await;
        http.put(kv("pre/fix"), "y").expect(204).await;
        let mut prefixed = Feed::open(&http, &format!("?prefix=pre%2F&from={beginning}"), None).await.expect("a feed");
        assert_eq!(change(&mut prefixed).await.key(), b"pre/fix");
        let mut resumed = Feed::open(&cluster.http(1), "?prefix=%7Bf%7D", Some(&id.to_string())).await.expect("a feed");
        assert_eq!(change(&mut resumed).await.kind, "delete", "Last-Event-ID resumes behind the event");
    }
}

/// Reads the feed, connection by connection, and notes what it was told.
#[derive(Default)]
struct Reader {
    connections: Vec<FeedConnection>,
    changes: usize,
    id: Option<String>,
}

impl Reader {
    /// Reads up to `count` events or until the feed is idle, then leaves the connection. An error is a connection that broke.
    async fn read(&mut self, http: &Http, from: &str, count: usize) -> Result<(), HttpError> {
        let query = format!("?from={}", path_of(from.as_bytes()));
        let mut feed = Feed::open(http, &query, self.id.as_deref()).await?;
        assert_eq!(feed.head.status, 200, "{}", feed.head);
        let (from, prefix) = (feed.head.timestamp(), Bytes::new());
        self.connections.push(FeedConnection { reader: "the reader".to_owned(), from, prefix, events: Vec::new() });
        let connection = self.connections.len() - 1;
        for _ in 0..count {
            let Some(event) = feed.next(Duration::from_secs(5)).await? else { break };
            self.connections[connection].events.push(event.told());
            if event.id.is_some() {
                self.id.clone_from(&event.id);
            }
            if event.kind == "progress" {
                break;
            }
            self.changes += 1;
        }
        Ok(())
    }
}

e2e! {
    /// Goal: no gap and no repeat over reconnects, from node to node and across a serving node's SIGKILL. Method: a
    /// writer writes single records; the reader leaves after a random number of events and resumes with the last id at a
    /// random node, one of which is killed and restarted meanwhile; in the end the checker holds every connection against
    /// the log, and as many changes were told as were written.
    async fn the_feed_has_no_gap_and_no_repeat_over_reconnects_and_kills(places: 1, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let nodes = [cluster.http(0), cluster.http(1)];
        let beginning = format!("{}.", history(&nodes[0]).await);
        let writer = nodes[0].clone();
        let writing = tokio::spawn(async move {
            let mut told = Session { name: "the writer".to_owned(), steps: Vec::new() };
            for number in 0..WRITES {
                let (key, value) = (format!("k{}", number % 50), number.to_string());
                let answer = writer.put(kv(&key), value.clone()).expect(204).await;
                let timestamp = answer.version().single().expect("a version is one timestamp");
                let updates = vec![Update { key: key.into(), value: Some(value.into()) }];
                told.steps.push(SessionStep::Wrote { timestamp, updates, took_effect: true });
            }
            told
        });
        let mut rng = Rng::of_run(5);
        let mut reader = Reader::default();
        for _ in 0..5 {
            for _ in 0..4 {
                // A broken connection is what this is about.
                let _ = reader.read(&nodes[rng.below(2)], &beginning, rng.below(120)).await;
            }
            cluster.serving[1].kill();
            let _ = reader.read(&nodes[0], &beginning, rng.below(60)).await;
            cluster.start_serving(1);
            cluster.wait_serving_ready(1).await;
        }
        let written = writing.await.expect("the writer failed");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while reader.changes < WRITES && tokio::time::Instant::now() < deadline {
            let _ = reader.read(&nodes[rng.below(2)], &beginning, 500).await;
        }
        let log = log_lines::read_all(&cluster).await;
        sessions::check(&log, &[written]).require("what was acknowledged");
        check(&log, &reader.connections).require("the feed");
        assert_eq!(reader.changes, WRITES, "told, and written");
    }
}
