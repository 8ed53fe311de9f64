//! Watches: resuming without gap or repeat.

use super::server::{Reply, Server};
use crate::kv::{Client, ClientConfig, Error, WatchOptions};
use std::time::Duration;

fn client(urls: &[&str]) -> Client {
    let mut config = ClientConfig::new(urls.iter().copied());
    config.backoff = Duration::from_millis(1);
    config.feed_silence_max = Duration::from_millis(200);
    Client::new(config).unwrap()
}

fn put(key: &str, version: &str, id: Option<&str>) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: put\n{id}data: {{\"key\":\"{key}\",\"value\":\"v\",\"version\":\"{version}\"}}\n\n")
}

/// Goal: no gap, no repeat, over connections cut between events, inside a record, and inside an event; over nodes that
/// hang or are gone. Method: each connection gives a part; what it gives depends on the id that the client resumes with.
#[tokio::test]
async fn a_watch_over_broken_connections_gives_each_change_once() {
    let feed = |_: usize, request: &super::server::Received| {
        let position = request.header("last-event-id").unwrap().to_owned();
        let query = position.replace(':', "%3A").replace('.', "%2E");
        assert_eq!(request.target, format!("/v1/feed?prefix=k&from={query}"));
        match position.as_str() {
            "c7f3a1.0:4" => Reply::feed(&put("k1", "c7f3a1.0:5", Some("c7f3a1.0:5"))),
            "c7f3a1.0:5" => Reply::feed(
                &[
                    put("k2", "c7f3a1.0:6", Some("c7f3a1.0:6")),
                    put("k3", "c7f3a1.0:7", None),
                    "event: put\ndata: {\"ke".to_owned(),
                ]
                .concat(),
            ),
            "c7f3a1.0:6" => Reply::feed(
                &[
                    put("k3", "c7f3a1.0:7", None),
                    "event: delete\nid: c7f3a1.0:7\ndata: {\"key\":\"k4\",\"version\":\"c7f3a1.0:7\"}\n\n".to_owned(),
                    "event: progress\nid: c7f3a1.0:9_1:3\ndata: {}\n\n".to_owned(),
                ]
                .concat(),
            ),
            "c7f3a1.0:9_1:3" => Reply::feed(&put("k5", "c7f3a1.1:4", Some("c7f3a1.0:9_1:4"))),
            _ => Reply::Hang,
        }
    };
    let (one, other) = (Server::start(feed).await, Server::start(feed).await);
    let hanging = Server::replying(vec![Reply::Hang]).await;
    let refusing = Server::replying(vec![Reply::problem(503, "behind")]).await;
    let dead = Server::dead_url().await;
    let client = client(&[&hanging.url, &one.url, &dead, &refusing.url, &other.url]);
    let options = WatchOptions { from: "c7f3a1.0:4".parse().ok(), ..WatchOptions::prefix("k") };
    let mut watch = client.watch(options).await.unwrap();
    for (key, version, live) in [
        ("k1", "c7f3a1.0:5", true),
        ("k2", "c7f3a1.0:6", true),
        ("k3", "c7f3a1.0:7", true),
        ("k4", "c7f3a1.0:7", false),
        ("k5", "c7f3a1.1:4", true),
    ] {
        let change = watch.next().await.unwrap();
        assert_eq!((&change.key[..], change.version.to_string().as_str()), (key.as_bytes(), version));
        assert_eq!(change.value.is_some(), live);
    }
    assert_eq!(watch.position().to_string(), "c7f3a1.0:9_1:4");
}

#[tokio::test]
async fn a_watch_from_now_begins_beyond_every_acknowledged_write() {
    let server = Server::start(|_, request| {
        if request.target.starts_with("/v1/kv?") {
            return Reply::json(serde_json::json!({"items": [], "cursor": null, "timestamp": "c7f3a1.0:8"}));
        }
        assert_eq!(request.header("last-event-id"), Some("c7f3a1.0:8"));
        Reply::feed(&put("k", "c7f3a1.0:9", Some("c7f3a1.0:9")))
    })
    .await;
    let mut watch = client(&[&server.url]).watch(WatchOptions::default()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().version.to_string(), "c7f3a1.0:9");
    assert_eq!(server.received()[0].target, "/v1/kv?limit=1&consistency=linearizable");
}

#[tokio::test]
async fn a_position_below_the_horizon_is_told() {
    let server = Server::replying(vec![Reply::problem(410, "compacted")]).await;
    let options = WatchOptions { from: "c7f3a1.0:4".parse().ok(), ..WatchOptions::default() };
    let error = client(&[&server.url]).watch(options).await.unwrap().next().await.unwrap_err();
    assert!(matches!(&error, Error::Refused(problem) if problem.kind.name() == "compacted"), "{error:?}");
}

#[tokio::test]
async fn a_feed_of_another_history_is_told_and_gives_nothing() {
    let server = Server::replying(vec![Reply::feed(&put("k", "000001.0:9", Some("000001.0:9")))]).await;
    let options = WatchOptions { from: "c7f3a1.0:4".parse().ok(), ..WatchOptions::default() };
    let mut watch = client(&[&server.url]).watch(options).await.unwrap();
    assert!(matches!(watch.next().await, Err(Error::Unexpected(_))));
    assert_eq!(watch.position().to_string(), "c7f3a1.0:4");
}
