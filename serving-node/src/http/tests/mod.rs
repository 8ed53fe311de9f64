//! The contract of DESIGN §4, held to over a real socket: a serving node over a log in memory, and a client that can say
//! anything, since it writes its own bytes.

mod batches;
mod consistency;
mod feed;
mod hostile;
mod keys;
mod operation;
mod scans;
mod slow_readers;
mod txns;
mod understood;
mod writes;

use crate::node::{ServingNode, ServingNodeConfig};
use crate::partitions::{IndexKind, PartitionsConfig};
use crate::testing::MemoryLog;
use duramen_common::HistoryId;
use duramen_common::seams::Seams;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than anything here takes; only a hang gets there.
const HANG: Duration = Duration::from_secs(20);

/// A serving node over a log in memory.
pub(super) struct Harness {
    pub(super) log: Arc<MemoryLog>,
    pub(super) node: ServingNode,
}

pub(super) fn config() -> ServingNodeConfig {
    let partitions = PartitionsConfig {
        index: IndexKind::Memory,
        fetch_wait_ms: 200,
        tail_timeout_ms: 300,
        ..PartitionsConfig::default()
    };
    ServingNodeConfig {
        name: "tested".to_owned(),
        http_addr: "127.0.0.1:0".parse().unwrap(),
        partitions,
        value_bytes_max: 64 * 1024,
        ..ServingNodeConfig::default()
    }
}

/// Never applies anything within a test's time.
pub(super) fn lagging() -> ServingNodeConfig {
    let config = config();
    ServingNodeConfig {
        partitions: PartitionsConfig { lag: Duration::from_secs(60), ..config.partitions.clone() },
        ..config
    }
}

pub(super) fn history() -> HistoryId {
    "c7f3a1".parse().unwrap()
}

impl Harness {
    /// A node that is ready, over an empty log.
    pub(super) async fn start(partitions: u16) -> Harness {
        Harness::start_with(config(), Arc::new(MemoryLog::new(history(), partitions))).await
    }

    /// A node that is ready.
    pub(super) async fn start_with(config: ServingNodeConfig, log: Arc<MemoryLog>) -> Harness {
        let harness = Harness::start_unready(config, log).await;
        tokio::time::timeout(HANG, harness.node.ready()).await.unwrap();
        harness
    }

    /// A node that answers, and may lag behind for ever.
    pub(super) async fn start_unready(config: ServingNodeConfig, log: Arc<MemoryLog>) -> Harness {
        let node = ServingNode::start(config, log.clone(), Seams::system()).await.unwrap();
        let harness = Harness { log, node };
        let is_open = async { while harness.get("/v1/status").await.status != 200 {} };
        tokio::time::timeout(HANG, is_open).await.unwrap();
        harness
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.node.http_addr()
    }

    pub(super) async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        send(self.addr(), method, target, headers, body).await
    }

    pub(super) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], b"").await
    }

    pub(super) async fn get_with(&self, target: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", target, headers, b"").await
    }

    pub(super) async fn put(&self, key: &str, value: &str) -> Answer {
        self.put_with(key, value, &[]).await
    }

    pub(super) async fn put_with(&self, key: &str, value: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("PUT", &format!("/v1/kv/{key}"), headers, value.as_bytes()).await
    }

    pub(super) async fn delete_with(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("DELETE", &format!("/v1/kv/{key}"), headers, b"").await
    }

    pub(super) async fn post(&self, target: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send("POST", target, &all, body.to_string().as_bytes()).await
    }

    pub(super) async fn stop(self) {
        tokio::time::timeout(HANG, self.node.shutdown()).await.unwrap();
    }
}

/// Sends one request on a connection of its own.
pub(super) async fn send(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head += &format!("Host: {addr}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "Connection: close\r\n\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    let answer = raw(addr, &bytes).await;
    Answer::parse(&answer, method == "HEAD").unwrap_or_else(|| panic!("not an answer: {}", answer.escape_ascii()))
}

/// Sends bytes and reads until the other side closes.
pub(super) async fn raw(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            let _ = writing.write_all(&bytes).await;
            writing
        });
        let mut answer = Vec::new();
        let _ = reading.read_to_end(&mut answer).await;
        sending.abort();
        answer
    };
    tokio::time::timeout(HANG, exchange).await.expect("the connection is closed in time")
}

/// An answer, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8], is_head: bool) -> Option<Answer> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
        if let Some(length) = answer.header("content-length").filter(|_| !is_head && status != 304) {
            assert_eq!(length.parse::<usize>().unwrap(), answer.body.len(), "{answer:?}");
        }
        Some(answer)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(this, _)| this == name).map(|(_, value)| &value[..]);
        let first = values.next();
        assert!(values.next().is_none(), "{name} stands twice");
        first
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(super) fn timestamp(&self) -> String {
        self.header("log-timestamp").unwrap_or_else(|| panic!("no Log-Timestamp: {self:?}")).to_owned()
    }

    pub(super) fn etag(&self) -> String {
        self.header("etag").unwrap_or_else(|| panic!("no ETag: {self:?}")).to_owned()
    }

    /// Asserts that this is the problem, in form and status, and returns its body.
    pub(super) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}: {}", self.body.escape_ascii());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["type"], kind, "{body}");
        assert_eq!(body["status"], status);
        assert!(body["detail"].as_str().unwrap().len() > 10);
        let is_passing = matches!(status, 429 | 503 | 507);
        assert_eq!(self.header("retry-after").is_some(), is_passing, "Retry-After of {body}");
        body
    }
}
