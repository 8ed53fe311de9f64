//! Callers that ask and do not read: what is held for them is bounded, others are served meanwhile, and it is given back.

use super::feed::Feed;
use super::*;
use duramen_transport::http::HttpLimits;
use serde_json::json;
use tokio::net::TcpSocket;

const KIB: usize = 1024;
const VALUES: usize = 160;

/// A node with little to hold, over values of 60 KiB.
async fn harness() -> Harness {
    harness_with(HttpLimits::default()).await
}

async fn harness_with(http: HttpLimits) -> Harness {
    let mut small = config();
    small.http = http;
    small.answer_bytes_max = 256 * KIB;
    small.feed_bytes_max = 1024 * KIB;
    let harness = Harness::start_with(small, Arc::new(MemoryLog::new(history(), 2))).await;
    let value = "v".repeat(60 * KIB);
    for number in 0..VALUES {
        assert_eq!(harness.put(&format!("k{number:03}"), &value).await.status, 204);
    }
    harness
}

/// Asks for something large, and reads nothing but the first byte.
async fn stalled(harness: &Harness, target: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(harness.addr()).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

async fn gauge(harness: &Harness, name: &str) -> usize {
    let metrics = harness.get("/metrics").await;
    let line = metrics.text().lines().find(|line| line.starts_with(&format!("duramen_{name} "))).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {name}")).split(' ').nth(1).unwrap().parse().unwrap()
}

async fn until(harness: &Harness, name: &str, holds: impl Fn(usize) -> bool) {
    let waiting = async { while !holds(gauge(harness, name).await) {} };
    tokio::time::timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("{name} never got there"));
}

/// Goal: feeds that nobody reads hold their budget and no more; who reads is served; what they held is given back.
#[tokio::test]
async fn feeds_that_nobody_reads_hold_little() {
    let harness = harness().await;
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(stalled(&harness, "/v1/feed?from=c7f3a1.").await);
    }
    until(&harness, "http_feeds", |feeds| feeds == 12).await;
    until(&harness, "feed_bytes_held", |bytes| bytes > 0).await;
    for number in 0..20 {
        assert_eq!(harness.put(&format!("more{number}"), "v").await.status, 204);
        assert!(gauge(&harness, "feed_bytes_held").await <= 1024 * KIB);
    }
    assert_eq!(harness.get("/v1/kv/more7").await.text(), "v");
    assert_eq!(harness.get("/v1/kv?prefix=more").await.json()["items"].as_array().unwrap().len(), 20);
    drop(held);
    until(&harness, "feed_bytes_held", |bytes| bytes == 0).await;
    until(&harness, "http_feeds", |feeds| feeds == 0).await;
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    let mut keys: Vec<String> = Vec::new();
    while keys.len() < VALUES + 20 {
        keys.push(feed.next().await.data["key"].as_str().unwrap().to_owned());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), VALUES + 20);
    harness.stop().await;
}

/// Goal: an answer that nobody takes counts until it is gone. Meanwhile small answers pass, a large one waits for as long as its
/// caller would wait and is refused by name then, and a batch whose answer has no room appends nothing.
#[tokio::test]
async fn answers_that_nobody_takes_are_counted() {
    let harness = harness().await;
    let held = stalled(&harness, "/v1/kv?limit=1000").await;
    until(&harness, "answer_bytes_held", |bytes| bytes == 256 * KIB).await;
    let impatient = [("prefer", "wait=0")];
    for target in ["/v1/kv?limit=1000", "/v1/kv/k001"] {
        let refused = harness.get_with(target, &impatient).await.problem(429, "overloaded");
        assert_eq!(refused["limit"], 256 * KIB, "{refused}");
    }
    assert_eq!(harness.send("HEAD", "/v1/kv/k001", &impatient, b"").await.status, 429);
    assert_eq!(harness.put("small", "v").await.status, 204);
    assert_eq!(harness.get("/v1/kv/small").await.text(), "v");
    assert_eq!(harness.get("/v1/kv?prefix=s").await.json()["items"].as_array().unwrap().len(), 1);
    let end =
        |harness: &Harness| ["0", "1"].map(|partition| harness.log.committed_end(partition.parse().unwrap()).get());
    let before = end(&harness);
    let ops: Vec<_> = (0..100).map(|number| json!({"delete": {"key": format!("none{number}")}})).collect();
    let body = json!({"ops": ops});
    harness.post("/v1/batch", body.clone(), &impatient).await.problem(429, "overloaded");
    assert_eq!(end(&harness), before, "nothing was appended");
    let addr = harness.addr();
    let patient = tokio::spawn(async move { send(addr, "GET", "/v1/kv/k001", &[("prefer", "wait=30")], b"").await });
    for _ in 0..3 {
        assert_eq!(gauge(&harness, "answer_bytes_held").await, 256 * KIB);
    }
    assert!(!patient.is_finished(), "there was no room");
    drop(held);
    let answer = patient.await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 60 * KIB));
    assert_eq!(harness.post("/v1/batch", body, &[]).await.status, 200);
    assert!(harness.get("/v1/kv?limit=1000").await.json()["items"].as_array().unwrap().len() > 60);
    assert_eq!(harness.send("HEAD", "/v1/kv/k001", &[], b"").await.status, 200);
    until(&harness, "answer_bytes_held", |bytes| bytes == 0).await;
    harness.stop().await;
}

/// Goal: who waits for room gets it, because callers that take nothing are dropped sooner then; feeds and answers alike.
#[tokio::test]
async fn who_takes_nothing_goes_while_others_wait() {
    let pressed = HttpLimits { write_timeout_pressed: Duration::from_secs(1), ..HttpLimits::default() };
    let harness = harness_with(pressed).await;
    let mut held = vec![stalled(&harness, "/v1/kv?limit=1000").await];
    until(&harness, "answer_bytes_held", |bytes| bytes == 256 * KIB).await;
    let answer = harness.get_with("/v1/kv?limit=1000", &[("prefer", "wait=15")]).await;
    assert!(answer.json()["items"].as_array().unwrap().len() > 60);
    for _ in 0..2 {
        held.push(stalled(&harness, "/v1/feed?from=c7f3a1.").await);
    }
    until(&harness, "feed_bytes_held", |bytes| bytes > 512 * KIB).await;
    let mut feed = Feed::open(&harness, "/v1/feed?from=c7f3a1.", &[]).await;
    for _ in 0..VALUES {
        feed.next().await;
    }
    assert!(gauge(&harness, "http_connections_not_read_total").await >= 2);
    drop(held);
    harness.stop().await;
}
