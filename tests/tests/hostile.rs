//! Hostile input: every limit answers as the contract says, nothing grows past it, and the servers go on.

use crate::e2e;
use bytes::Bytes;
use duramen_tests::harness::cluster::PATIENCE;
use duramen_tests::harness::http::{Http, kv};
use duramen_tests::harness::{Answer, Cluster, HttpError, Rng, until};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How much a process may grow under attack. Unit: KiB.
const GROWTH_KIB_MAX: u64 = 160 * 1024;

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap_or_else(|error| panic!("{addr} does not take connections: {error}"))
}

/// Writes bytes and reads whatever comes until the peer closes, at most `limit` long.
async fn raw(addr: SocketAddr, bytes: &[u8], limit: Duration) -> Vec<u8> {
    let mut stream = connect(addr).await;
    // The peer may close before it has taken everything: that is its right.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(limit, stream.read_to_end(&mut answer)).await;
    answer
}

/// Memory of all five processes now.
fn memory(cluster: &Cluster) -> Vec<(String, u64)> {
    cluster
        .log
        .iter()
        .chain(&cluster.serving)
        .map(|process| (process.name.clone(), process.memory_kib("VmRSS")))
        .collect()
}

async fn still_serves(cluster: &mut Cluster, before: &[(String, u64)], what: &str) {
    for process in cluster.log.iter_mut().chain(&mut cluster.serving) {
        process.check_alive().unwrap_or_else(|ended| panic!("{what}: {ended}"));
    }
    for (number, key) in [(0, "x"), (1, "y")] {
        cluster.http(number).put(kv(format!("alive/{key}")), what.to_owned()).wait(20).expect(204).await;
        assert_eq!(cluster.http(1 - number).get(kv(format!("alive/{key}"))).wait(20).expect(200).await.text(), what);
    }
    for ((name, before), (_, now)) in before.iter().zip(memory(cluster)) {
        assert!(now < before + GROWTH_KIB_MAX, "{what}: {name} grew from {before} to {now} KiB");
    }
}

e2e! {
    /// Goal: each limit of the HTTP API answers with its status and names the limit, without reading what is over it.
    /// Method: key, value, batch, header, target, token, scan limit, one over; declared lengths that never come.
    async fn every_http_limit_answers_as_the_contract_says(places: 1, seconds: 90) {
        let mut cluster = Cluster::five().await;
        let before = memory(&cluster);
        let http = cluster.http(0);
        let over = |call: Answer| {
            let answer = call.expect_problem(413, "too-large");
            assert!(answer.text().chars().any(|c| c.is_ascii_digit()), "names the limit: {answer}");
        };
        http.put(kv([b'k'; 1024]), vec![1u8; 1 << 20]).expect(204).await;
        over(http.put(kv("v"), vec![1u8; (1 << 20) + 1]).ok().await);
        assert_eq!(http.put(kv([b'k'; 1025]), "x").ok().await.expect_problem(400, "bad-key").status, 400);
        let ops: Vec<_> = (0..1001).map(|n| json!({"put": {"key": format!("{n}"), "value": ""}})).collect();
        over(http.post("/v1/batch", &json!({"ops": ops})).ok().await);
        over(http.post("/v1/txn", &json!({"if": [], "ops": [{"put": {"key": "a", "value": "v".repeat(4 << 20)}}]})).ok().await);
        let value = "v".repeat((1 << 20) + 1);
        let one = http.post("/v1/batch", &json!({"ops": [{"put": {"key": "a", "value": value}}]})).ok().await;
        assert!(one.status == 413 || one.json()["results"][0]["status"] == 413, "{one}");
        let token = format!("c7f3a1.{}", "0:1_".repeat(4000));
        let long = http.get(kv("v")).after(token).ok().await;
        assert!([400, 431].contains(&long.status), "{long}");
        // A length that is declared and never comes is refused at once, or does not hold anything.
        let head = format!("PUT /v1/kv/v HTTP/1.1\r\nhost: {}\r\ncontent-length: 1000000000000\r\n\r\n", http.addr());
        let answer = raw(http.addr(), head.as_bytes(), Duration::from_secs(15)).await;
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
        let chunked = endless_chunks(http.addr()).await;
        assert!(chunked.contains(" 413") || chunked.is_empty(), "an endless chunked body: {chunked}");
        for bad in ["GET / HTTP/1.1\r\n\r\n", "nonsense\r\n\r\n", "GET  HTTP/9.9\r\n\r\n", "\r\n\r\n\r\n", "PUT /v1/kv/v HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n"] {
            let answer = raw(http.addr(), bad.as_bytes(), Duration::from_millis(500)).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{bad:?}: {}", String::from_utf8_lossy(&answer));
        }
        headers(&http).await;
        still_serves(&mut cluster, &before, "after over-long requests").await;
    }
}

/// Sends chunks until the server has had enough; gives what it said.
async fn endless_chunks(addr: SocketAddr) -> String {
    let mut stream = connect(addr).await;
    let head = format!("PUT /v1/kv/v HTTP/1.1\r\nhost: {addr}\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("the head is taken");
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(vec![7u8; 0x10000]);
    chunk.extend(b"\r\n");
    let mut sent = 0usize;
    while sent < 64 << 20 && stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "64 MiB of one value were taken");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Too many and too large headers, and a target without end.
async fn headers(http: &Http) {
    let host = http.addr();
    let many: String = (0..2000).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x-large: {}\r\n", "y".repeat(1 << 20));
    for headers in [many, large] {
        let request = format!("GET /v1/kv/v HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n");
        let answer = raw(host, request.as_bytes(), Duration::from_secs(5)).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    let target = format!("GET /v1/kv/{} HTTP/1.1\r\nhost: {host}\r\n\r\n", "k".repeat(1 << 20));
    let text = String::from_utf8_lossy(&raw(host, target.as_bytes(), Duration::from_secs(5)).await).into_owned();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
}

e2e! {
    /// Goal: the framed port survives anything: random bytes, half frames, claimed lengths, hellos of nonsense, HTTP.
    /// Method: 300 connections of each kind to every log node, then the cluster must work and not have grown.
    async fn random_bytes_on_the_framed_port_harm_nobody(places: 1, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let before = memory(&cluster);
        let mut rng = Rng::of_run(9);
        let preamble = [b"DRTP".as_slice(), &[1, 0, 0, 0]].concat();
        for round in 0..300 {
            let addr = cluster.log_rpc(round % 3);
            let noise = rng.below(4000);
            let noise = rng.bytes(noise);
            let frame = |length: u32, kind: u8, body: &[u8]| {
                let mut frame = preamble.clone();
                frame.extend(length.to_le_bytes());
                frame.extend([kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                frame.extend(body);
                frame
            };
            let attacks = [
                noise.clone(),
                [preamble.as_slice(), &noise].concat(),
                frame(noise.len() as u32, 1, &noise),
                frame(u32::MAX, 1, &noise),
                frame(16 << 20, 4, &noise),
                frame(4096, 1, &noise[..noise.len().min(100)]),
                b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
            ];
            for attack in attacks {
                let _ = raw(addr, &attack, Duration::from_millis(2)).await;
            }
        }
        let told = raw(cluster.log_rpc(0), b"GET / HTTP/1.1\r\n\r\n", Duration::from_secs(5)).await;
        assert!(told.starts_with(b"HTTP/1.1 400"), "an HTTP client is told: {}", String::from_utf8_lossy(&told));
        let told = raw(cluster.log_rpc(0), &rng.bytes(64), Duration::from_secs(5)).await;
        assert!(!told.is_empty(), "the peer is told why");
        still_serves(&mut cluster, &before, "after random bytes").await;
    }
}

e2e! {
    /// Goal: idle and slow connections cost little and keep nobody out. Method: 300 connections to each kind of port that
    /// send one byte, or one header a second, and stay open, while others work; then they go and their files are closed.
    async fn slow_and_idle_connections_keep_nobody_out(places: 1, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let before = memory(&cluster);
        let files_before = cluster.serving[0].open_files();
        let ports = [cluster.http(0).addr(), cluster.log_http(0).addr(), cluster.log_rpc(0)];
        let mut held = Vec::new();
        for (number, &port) in ports.iter().cycle().take(900).enumerate() {
            let mut stream = connect(port).await;
            let start: &[u8] = if number % 2 == 0 { b"P" } else { b"PUT /v1/kv/slow HTTP/1.1\r\nx-slow: " };
            let _ = stream.write_all(start).await;
            held.push(stream);
        }
        still_serves(&mut cluster, &before, "with 900 idle connections").await;
        for _ in 0..3 {
            for stream in &mut held {
                let _ = stream.write_all(b"y").await;
            }
            still_serves(&mut cluster, &before, "with 900 slow connections").await;
        }
        drop(held);
        let serving = &cluster.serving[0];
        until("the connections' files to be closed", PATIENCE, || async {
            let now = serving.open_files();
            if now < files_before + 40 { Ok(()) } else { Err(format!("{files_before} before, {now} now")) }
        })
        .await;
    }
}

e2e! {
    /// Goal: readers that wait are bounded, and each gets an answer. Method: 3,000 parked reads for a position that is
    /// not there yet because the node is cut off; all are answered 503 or 429, memory stays, the node goes on.
    async fn parked_readers_are_bounded_and_all_are_answered(places: 2, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let before = memory(&cluster);
        let (whole, cut) = (cluster.http(0), cluster.http(1));
        cluster.network.cut("serving-2", &["log-1", "log-2", "log-3"]);
        let token = whole.put(kv("parked"), "x").expect(204).await.timestamp().to_string();
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..3000 {
            readers.spawn(cut.get(kv("parked")).after(&token).wait(3).send());
        }
        let mut answers = std::collections::BTreeMap::new();
        while let Some(answer) = readers.join_next().await {
            let told = match answer.expect("a reader panicked") {
                Ok(answer) => format!("{} {}", answer.status, answer.problem()),
                Err(HttpError::NotSent { .. }) => "not connected".to_owned(),
                Err(error) => panic!("a parked reader got no answer: {error}"),
            };
            *answers.entry(told).or_insert(0) += 1;
        }
        let known = ["503 behind", "429 overloaded", "not connected"];
        assert!(answers.keys().all(|told| known.contains(&told.as_str())), "{answers:?}");
        cluster.network.heal();
        until("the node to catch up", PATIENCE, || async {
            let answer = cut.get(kv("parked")).after(&token).send().await.map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
        still_serves(&mut cluster, &before, "after 3,000 parked readers").await;
    }
}

e2e! {
    /// Goal: random requests never break a server: each answer is a status of the contract. Method: 3,000 requests of
    /// random method, path, headers and body to serving and log nodes' HTTP.
    async fn random_requests_are_answered_by_the_contract(places: 1, seconds: 120) {
        let mut cluster = Cluster::five().await;
        let before = memory(&cluster);
        let mut rng = Rng::of_run(11);
        let paths = ["/v1/kv/", "/v1/kv/a", "/v1/kv/%FF%00", "/v1/kv", "/v1/batch", "/v1/txn", "/v1/feed", "/v1/status", "/v1/log/0", "/v1/log/9", "/v1/log/x",
                     "/v1/log/0/tail", "/v1/partitions/0/digest", "/v1/partitions/-1/digest", "/v1/cluster", "/healthz", "/metrics", "//", "/%", "/v2"];
        let queries = ["", "?limit=0", "?limit=99999999999999999999", "?after=", "?after=c7f3a1.", "?cursor=AAAA", "?from=18446744073709551615", "?wait=999999",
                       "?consistency=stale", "?start=%ff&end=%00", "?prefix=%", "?&&&===", "?from=x"];
        let methods = ["GET", "PUT", "DELETE", "POST", "HEAD", "PATCH", "OPTIONS", "TRACE"];
        let headers = [("if-match", "*"), ("if-match", "\"\""), ("if-none-match", "*"), ("if-none-match", "\"x"), ("read-after", "c7f3a1.0:0"), ("prefer", "wait=99999999999"),
                       ("idempotency-key", ""), ("idempotency-key", "same"), ("content-type", "application/json"), ("content-type", "application/octet-stream"),
                       ("last-event-id", "x"), ("range", "bytes=0-1"), ("expect", "200-ok"), ("origin", "null")];
        let statuses = [200, 204, 304, 400, 403, 404, 405, 406, 409, 410, 411, 412, 413, 414, 415, 417, 422, 429, 431, 503];
        for number in 0..3000 {
            let http = if number % 3 == 0 { cluster.log_http(number % 2) } else { cluster.http(number % 2) };
            let target = format!("{}{}", paths[rng.below(paths.len())], queries[rng.below(queries.len())]);
            let mut call = http.call(methods[rng.below(methods.len())], target).wait(0).limit(Duration::from_secs(20));
            for _ in 0..rng.below(3) {
                let (name, value) = headers[rng.below(headers.len())];
                call = call.header(name, value);
            }
            let length = rng.below(300);
            let body = match rng.below(3) {
                0 => Bytes::new(),
                1 => Bytes::from(rng.bytes(length)),
                _ => Bytes::from_static(b"{\"ops\":[{\"put\":{\"key\":\"a\",\"value\":{\"base64\":\"!\"}}}],\"if\":[[[[[[[[[[[[[[[["),
            };
            let streaming = call.body(body).stream().await;
            let head = streaming.unwrap_or_else(|error| panic!("request {number}: {error}")).head;
            assert!(statuses.contains(&head.status), "request {number}: {head}");
        }
        still_serves(&mut cluster, &before, "after random requests").await;
    }
}
