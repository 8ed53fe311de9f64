//! What no honest client sends: limits of heads and connections, broken requests, slow ones. Each is answered or cut off,
//! and the node goes on.

use super::*;

async fn still_serves(harness: &Harness) {
    assert_eq!(harness.put("alive", "1").await.status, 204);
}

/// Too many headers, or too long ones: 413 with the limit, also where hyper would not read on at all.
#[tokio::test]
async fn heads_are_bounded() {
    let harness = Harness::start(1).await;
    let names: Vec<String> = (0..120).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (&name[..], "1")).collect();
    assert_eq!(harness.get_with("/v1/kv/a", &many).await.problem(413, "too-large")["limit"], 100);
    let long = "x".repeat(33 * 1024);
    assert_eq!(harness.get_with("/v1/kv/a", &[("x", &long)]).await.problem(413, "too-large")["limit"], 32 * 1024);
    for size in [70 * 1024, 200 * 1024, 2 * 1024 * 1024] {
        let huge = "x".repeat(size);
        for head in [format!("GET /v1/kv/a HTTP/1.1\r\nx: {huge}"), format!("GET /v1/kv/{huge} HTTP/1.1")] {
            let answer =
                raw(harness.addr(), format!("{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await;
            let answer = Answer::parse(&answer, false).unwrap_or_else(|| panic!("no answer to {size} bytes"));
            assert!(answer.problem(413, "too-large")["limit"].is_u64());
        }
    }
    still_serves(&harness).await;
    harness.stop().await;
}

/// Bytes that are no request: 400 or cut off, never a hang.
#[tokio::test]
async fn what_is_no_request_is_cut_off() {
    let harness = Harness::start(1).await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /v1/kv/a b HTTP/1.1\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let exchange = async {
            let mut stream = TcpStream::connect(harness.addr()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let answer = tokio::time::timeout(HANG, exchange).await.unwrap();
        if !answer.is_empty() {
            Answer::parse(&answer, false).unwrap().problem(400, "bad-request");
        }
    }
    still_serves(&harness).await;
    harness.get("/v1/kv/a").await.problem(404, "not-found");
    harness.stop().await;
}

/// A body that ends before its announced length: nothing is appended.
#[tokio::test]
async fn a_body_that_is_cut_off_is_not_written() {
    let harness = Harness::start(1).await;
    let mut stream = TcpStream::connect(harness.addr()).await.unwrap();
    let head = b"PUT /v1/kv/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc";
    stream.write_all(head).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", answer.escape_ascii());
    still_serves(&harness).await;
    assert_eq!(harness.log.committed_end("0".parse().unwrap()).get(), 1);
    harness.stop().await;
}

/// A head that never ends is cut off after the timeout, and holds no connection for ever.
#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let mut impatient = config();
    impatient.http.head_timeout = Duration::from_millis(100);
    let harness = Harness::start_with(impatient, Arc::new(MemoryLog::new(history(), 1))).await;
    let mut stream = TcpStream::connect(harness.addr()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("it is cut off");
    still_serves(&harness).await;
    harness.stop().await;
}

/// A body that never comes whole is refused after the timeout, and holds no connection for ever.
#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let mut impatient = config();
    impatient.http.body_timeout = Duration::from_millis(100);
    let harness = Harness::start_with(impatient, Arc::new(MemoryLog::new(history(), 1))).await;
    let mut stream = TcpStream::connect(harness.addr()).await.unwrap();
    stream.write_all(b"PUT /v1/kv/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("it is cut off");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", answer.escape_ascii());
    harness.get("/v1/kv/slow").await.problem(404, "not-found");
    harness.stop().await;
}

/// Goal: idle connections never lock out a caller. Method: twice as many as there are places, kept open.
#[tokio::test]
async fn idle_connections_make_room_for_callers() {
    let mut narrow = config();
    narrow.http.connections_max = 4;
    let harness = Harness::start_with(narrow, Arc::new(MemoryLog::new(history(), 1))).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(harness.addr()).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        idle.push(stream);
    }
    still_serves(&harness).await;
    harness.stop().await;
}

/// Readers over the limit of waiters: 429 with Retry-After.
#[tokio::test]
async fn waiters_over_the_limit_are_429() {
    let mut narrow = lagging();
    narrow.partitions.waiters_max = 1;
    let harness = Harness::start_unready(narrow, Arc::new(MemoryLog::new(history(), 1))).await;
    let token = harness.put("a", "1").await.timestamp();
    let addr = harness.addr();
    let target = format!("/v1/kv/a?after={token}");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let target = target.clone();
            tokio::spawn(async move { send(addr, "GET", &target, &[("prefer", "wait=1")], b"").await })
        })
        .collect();
    let mut overloaded = 0;
    for reader in readers {
        let answer = reader.await.unwrap();
        if answer.status == 429 {
            answer.problem(429, "overloaded");
            overloaded += 1;
        } else {
            answer.problem(503, "behind");
        }
    }
    assert!(overloaded > 0);
    harness.stop().await;
}
