//! The HTTP API of a log node, spoken by hand.

use crate::support::Cluster;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(':').map(|(_, value)| value.trim())
    }
}

/// One request on one connection; `headers` are whole lines.
pub async fn ask(cluster: &Cluster, node: u64, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
    let addr = cluster.nodes[&node].http_addr().unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("host:")) {
        request.push_str(&format!("Host: {addr}\r\n"));
    }
    for line in headers {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // A server may refuse a body before it has read all of it.
    let _ = stream.write_all(body).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Method, path, header lines, body; status and type that must come.
type Case<'a> = (&'a str, &'a str, Vec<&'a str>, &'a [u8], u16, &'a str);

const LINES: &str = "Content-Type: application/x-ndjson";

/// Goal: append at any node, read at any other. Method: lines and an opaque body go in at each node.
#[tokio::test(flavor = "multi_thread")]
async fn records_go_in_at_any_node_and_come_out_at_any_other() {
    let cluster = Cluster::ready(3).await;
    let history = cluster.history();
    for node in 1..=3 {
        let body = b"{\"event\":\"one\"}\n\n{\"event\":\"two\",\"key\":\"k\"}\n";
        let answer = ask(&cluster, node, "POST", "/v1/log/0", &[LINES], body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let last = (node - 1) * 3 + 1;
        assert_eq!(answer.json()["count"], 2);
        assert_eq!(answer.json()["first"], format!("{history}.0:{}", last - 1));
        assert_eq!(answer.json()["last"], format!("{history}.0:{last}"));
        assert_eq!(answer.header("log-timestamp"), Some(format!("{history}.0:{last}").as_str()));
        let opaque = ["Content-Type: application/octet-stream"];
        let answer = ask(&cluster, node, "POST", "/v1/log/0", &opaque, &[0xff, 0, 1]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for node in 1..=3 {
        let answer = ask(&cluster, node, "GET", "/v1/log/0?from=4&limit=3&wait=5", &[], b"").await;
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let tail = ask(&cluster, node, "GET", "/v1/log/0/tail", &[], b"").await;
        assert_eq!(tail.json()["committed_end"], 9, "{}", tail.body);
        assert_eq!(tail.json()["timestamp"], format!("{history}.0:8"));
        let lines: Vec<Value> = answer
            .body
            .split(['\n', '\r'])
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["timestamp"], format!("{history}.0:4"), "node {node}: {}", answer.body);
        assert_eq!((&lines[0]["event"], &lines[0]["key"]), (&Value::from("two"), &Value::from("k")));
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_takes_effect_once() {
    let cluster = Cluster::ready(3).await;
    let key = [LINES, "Idempotency-Key: order-1"];
    let body = b"{\"key\":\"{a}1\",\"value\":\"x\"}\n{\"event\":\"y\"}";
    // `{a}` lives in one of the two partitions.
    let partition = duramen_common::placement::partition_of(b"{a}1", 2);
    let path = format!("/v1/log/{partition}");
    let first = ask(&cluster, 1, "POST", &path, &key, body).await;
    assert_eq!(first.status, 200, "{}", first.body);
    for node in 1..=3 {
        assert_eq!(ask(&cluster, node, "POST", &path, &key, body).await.json(), first.json());
    }
    let other = ask(&cluster, 2, "POST", &path, &key, b"{\"event\":\"other\"}").await;
    assert_eq!((other.status, &other.json()["type"]), (422, &Value::from("key-reused")));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_answered_as_the_contract_says() {
    let cluster = Cluster::ready(1).await;
    let event = b"{\"event\":\"e\"}".as_slice();
    let large = vec![b'x'; duramen_common::limits::BODY_BYTES_MAX + 1];
    let long = format!("Idempotency-Key: {}", "k".repeat(1025));
    let cases: Vec<Case<'_>> = vec![
        ("POST", "/v1/log/0", vec![], event, 415, "media-type"),
        ("POST", "/v1/log/0", vec!["Content-Type: text/plain"], event, 415, "media-type"),
        ("POST", "/v1/log/0", vec![LINES], b"", 400, "bad-request"),
        ("POST", "/v1/log/0", vec![LINES], b"{\"event\":\"e\"}\nnonsense", 400, "bad-request"),
        ("POST", "/v1/log/0", vec![LINES, &long], event, 400, "bad-request"),
        ("POST", "/v1/log/0", vec![LINES, "Prefer: wait=x"], event, 400, "bad-request"),
        ("POST", "/v1/log/0", vec![LINES, "Host: evil.example"], event, 403, "forbidden"),
        ("POST", "/v1/log/0", vec![LINES, "Origin: http://evil.example"], event, 403, "forbidden"),
        ("POST", "/v1/log/7", vec![LINES], event, 404, "not-found"),
        ("POST", "/v1/log/65535", vec![LINES], event, 404, "not-found"),
        ("POST", "/v1/log/meta", vec![LINES], event, 404, "not-found"),
        ("POST", "/v1/log/0", vec!["Content-Type: application/octet-stream"], &large, 413, "too-large"),
        ("GET", "/v1/log/0?limit=1001", vec![], b"", 400, "bad-request"),
        ("GET", "/v1/log/0?from=5", vec![], b"", 400, "bad-request"),
        ("GET", "/v1/nothing", vec![], b"", 404, "not-found"),
        ("DELETE", "/v1/log/0", vec![], b"", 405, "method-not-allowed"),
    ];
    for (method, path, headers, body, status, kind) in cases {
        let answer = ask(&cluster, 1, method, path, &headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {path}");
        assert_eq!(answer.json()["type"], kind, "{method} {path} {headers:?}");
    }
    assert_eq!(ask(&cluster, 1, "GET", "/v1/log/0/tail", &[], b"").await.json()["committed_end"], 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_cluster_and_metrics_tell_what_is() {
    let cluster = Cluster::ready(3).await;
    let own = format!("Origin: http://{}", cluster.nodes[&1].http_addr().unwrap());
    assert_eq!(ask(&cluster, 1, "GET", "/healthz", &[&own], b"").await.status, 200);
    assert_eq!(ask(&cluster, 1, "GET", "/readyz", &[], b"").await.status, 200);
    ask(&cluster, 1, "POST", "/v1/log/0", &[LINES], b"{\"event\":\"e\"}").await;
    let info = ask(&cluster, 2, "GET", "/v1/cluster", &[], b"").await.json();
    assert_eq!(info["history"], cluster.history().to_string());
    assert_eq!((&info["partitions"], info["log_nodes"].as_array().unwrap().len()), (&Value::from(2), 3));
    let mut batches = 0;
    for node in 1..=3 {
        let metrics = ask(&cluster, node, "GET", "/metrics", &[], b"").await.body;
        assert!(metrics.contains("duramen_log_fsync_seconds_count"), "{metrics}");
        let line = metrics.lines().find(|line| line.starts_with("duramen_log_batches_total{partition=\"0\"}"));
        batches += line.and_then(|line| line.rsplit(' ').next()).and_then(|count| count.parse().ok()).unwrap_or(0);
    }
    assert_eq!(batches, 1, "one batch was proposed, at the leader");
    cluster.stop_all().await;
}
