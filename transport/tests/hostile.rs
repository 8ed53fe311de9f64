//! What TCP adds to the contract: strangers, limits, slow readers, reconnecting. Goal: every limit answers as it says,
//! and nobody is harmed by another's misbehaviour.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::{Bytes, BytesMut};
use common::*;
use duramen_common::codec;
use duramen_transport::frame::{FrameBuffer, FrameKind, HANDSHAKE_BYTES_MAX, PREAMBLE_BYTES, header, preamble};
use duramen_transport::{
    CallError, Hello, Role, TcpServer, TcpServerConfig, TcpTransport, TcpTransportConfig, Transport, serve,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

async fn start(service: &Arc<Scripted>, change: impl FnOnce(&mut TcpServerConfig)) -> (TcpServer, String) {
    let mut config = TcpServerConfig::default();
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = serve(listener, Arc::clone(service) as Arc<_>, config);
    let addr = server.local_addr().to_string();
    (server, addr)
}

fn transport(change: impl FnOnce(&mut TcpTransportConfig)) -> Arc<TcpTransport> {
    let mut config = TcpTransportConfig::default();
    change(&mut config);
    Arc::new(TcpTransport::new(config, hello("test", None)))
}

/// Everything the server says until it closes.
async fn answer_to(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the server does not close").unwrap();
    answer
}

fn hello_bytes() -> Vec<u8> {
    let body = codec::encode(&Hello { role: Role::Client { name: "by hand".to_owned() }, history: None });
    [&preamble()[..], &header(FrameKind::Hello, 0, 0, body.len() as u32), &body].concat()
}

fn request_bytes(service: u8, request: u64, body: &[u8]) -> Vec<u8> {
    [&header(FrameKind::Request, service, request, body.len() as u32)[..], body].concat()
}

/// The reason in a refusal, which is the last frame.
fn refusal_in(answer: &[u8]) -> String {
    let mut buffer = FrameBuffer::default();
    buffer.room().extend_from_slice(answer);
    assert_eq!(buffer.take_preamble().unwrap(), preamble());
    let mut last = None;
    while let Some(frame) = buffer.take_frame(1 << 20).unwrap() {
        last = Some(frame);
    }
    let last = last.unwrap();
    assert_eq!(last.kind, FrameKind::Refused);
    String::from_utf8(last.body.to_vec()).unwrap()
}

#[tokio::test]
async fn strangers_are_told_what_speaks_here_and_closed() {
    let service = Scripted::new(1, None);
    let (server, addr) = start(&service, |_| {}).await;
    for noise in [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"SSH-2.0-OpenSSH_9.9\r\n", &[0; 100], &[0xff; 4]] {
        let reason = refusal_in(&answer_to(&addr, noise).await);
        assert!(reason.contains("Duramen"), "{reason}");
    }
    let http = answer_to(&addr, b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let http = String::from_utf8(http).unwrap();
    assert!(http.starts_with("HTTP/1.1 400 ") && http.contains("other port"), "{http}");
    let newer = refusal_in(&answer_to(&addr, b"DRTP\x02\x00\x00\x00").await);
    assert!(newer.contains("version 2"), "{newer}");
    let long = [&preamble()[..], &header(FrameKind::Hello, 0, 0, HANDSHAKE_BYTES_MAX as u32 + 1)].concat();
    assert!(refusal_in(&answer_to(&addr, &long).await).contains("limit"));
    let early = [&preamble()[..], &request_bytes(ECHO, 1, b"x")].concat();
    assert!(refusal_in(&answer_to(&addr, &early).await).contains("hello"));
    let garbled = [&preamble()[..], &header(FrameKind::Hello, 0, 0, 3), b"\x01\xff\xff"].concat();
    assert!(refusal_in(&answer_to(&addr, &garbled).await).contains("hello"));
    assert_eq!(server.counts().refused, 9);
    assert_eq!((server.counts().welcomed, service.begun.load(Ordering::SeqCst)), (0, 0));
    server.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_breaks_the_rules_later_is_told_and_closed() {
    let (server, addr) = start(&Scripted::new(1, None), |config| config.frame_bytes_max = 1000).await;
    let over = [hello_bytes(), header(FrameKind::Request, ECHO, 1, 1001).to_vec()].concat();
    assert!(refusal_in(&answer_to(&addr, &over).await).contains("limit is 1000"));
    let out_of_order = [hello_bytes(), header(FrameKind::Answer, 0, 1, 0).to_vec()].concat();
    assert!(refusal_in(&answer_to(&addr, &out_of_order).await).contains("out of order"));
    server.shutdown().await;
}

#[tokio::test]
async fn who_says_nothing_is_closed_in_time() {
    let (server, addr) = start(&Scripted::new(1, None), |config| config.handshake_timeout_ms = 50).await;
    assert!(refusal_in(&answer_to(&addr, b"").await).contains("50 ms"));
    assert!(refusal_in(&answer_to(&addr, &preamble()).await).contains("50 ms"));
    server.shutdown().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_has_its_turn_later() {
    let (server, addr) = start(&Scripted::new(1, None), |config| config.connections_max = 2).await;
    let others: Vec<_> = (0..3).map(|_| transport(|_| {})).collect();
    for transport in &others[..2] {
        transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    }
    let error = others[2].call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Refused { reason, .. } if reason.contains("connections_max")), "{error:?}");
    drop(others);
    let late = transport(|_| {});
    let deadline = Instant::now() + LONG;
    while let Err(error) = late.call(&peer(&addr), ECHO, Bytes::new(), LONG).await {
        assert!(error.is_definite() && Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.shutdown().await;
}

/// Goal: silent connections, however many, do not keep a peer out. Method: ten times as many as there are places.
#[tokio::test]
async fn silent_connections_make_room_for_a_caller() {
    let (server, addr) = start(&Scripted::new(1, None), |config| config.connections_max = 4).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&addr).await.unwrap());
    }
    transport(|_| {}).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    drop(silent);
    server.shutdown().await;
}

/// Goal: who asks nothing, who does not finish a frame and who takes no answer is closed; who waits for an answer is not.
#[tokio::test]
async fn who_leaves_a_connection_unused_is_closed_in_time() {
    let service = Scripted::new(1, None);
    let soon = |config: &mut TcpServerConfig| {
        (config.idle_timeout_ms, config.frame_timeout_ms, config.write_timeout_ms) = (80, 80, 80);
    };
    let (server, addr) = start(&service, soon).await;
    assert!(refusal_in(&answer_to(&addr, &hello_bytes()).await).contains("nothing was asked"));
    let partial = [hello_bytes(), header(FrameKind::Request, ECHO, 1, 1000).to_vec()].concat();
    assert!(refusal_in(&answer_to(&addr, &partial).await).contains("did not come whole"));
    let mut deaf = TcpStream::connect(&addr).await.unwrap();
    let asked = request_bytes(SIZED, 1, &(8u32 << 20).to_le_bytes());
    deaf.write_all(&[hello_bytes(), asked.repeat(8)].concat()).await.unwrap();
    let closed = async {
        while deaf.write_all(&request_bytes(ECHO, 1, b"")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, closed).await.expect("it is cut off");
    let waiting = transport(|_| {});
    let to = peer(&addr);
    let call = waiting.call(&to, GATED, Bytes::new(), LONG);
    tokio::pin!(call);
    assert!(timeout(Duration::from_millis(300), &mut call).await.is_err());
    service.gate.add_permits(1);
    call.await.unwrap();
    server.shutdown().await;
}

/// Goal: one connection's requests hold a bounded number of bytes. Method: gated requests of 1000 bytes, 2500 at once.
#[tokio::test]
async fn bytes_under_way_are_bounded_by_not_reading_on() {
    let service = Scripted::new(1, None);
    let (server, addr) = start(&service, |config| config.in_flight_bytes_max = 2_500).await;
    let transport = transport(|_| {});
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            tokio::spawn(async move { transport.call(&to, GATED, Bytes::from(vec![0; 1000]), LONG).await })
        })
        .collect();
    for released in 0..8 {
        let begun = Arc::clone(&service.begun);
        let wanted = (released + 3).min(8);
        eventually("the next begins", move || begun.load(Ordering::SeqCst) >= wanted).await;
        assert_eq!(service.begun.load(Ordering::SeqCst), wanted);
        service.gate.add_permits(1);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    server.shutdown().await;
}

/// Method: ten gated requests where three may be under way; the service must never see a fourth before one has ended.
#[tokio::test]
async fn requests_under_way_are_bounded_by_not_reading_on() {
    let service = Scripted::new(1, None);
    let (server, addr) = start(&service, |config| config.requests_in_flight_max = 3).await;
    let transport = transport(|_| {});
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            tokio::spawn(async move { transport.call(&to, GATED, Bytes::new(), LONG).await })
        })
        .collect();
    for released in 0..10 {
        let begun = Arc::clone(&service.begun);
        let wanted = (released + 3).min(10);
        eventually("the next begins", move || begun.load(Ordering::SeqCst) >= wanted).await;
        assert_eq!(service.begun.load(Ordering::SeqCst), wanted);
        service.gate.add_permits(1);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    server.shutdown().await;
}

/// Goal: a caller that sends and never reads holds a bounded amount of memory. Method: megabyte answers, never read; the
/// server must stop taking requests after a few.
#[tokio::test]
async fn a_caller_that_does_not_read_is_not_read_from() {
    let service = Scripted::new(1, None);
    let (server, addr) = start(&service, |_| {}).await;
    let mut stream = TcpStream::connect(&addr).await.unwrap();
    let megabyte = (1u32 << 20).to_le_bytes();
    let mut bytes = BytesMut::from(&hello_bytes()[..]);
    for request in 0..1000 {
        bytes.extend_from_slice(&request_bytes(SIZED, request, &megabyte));
    }
    stream.write_all(&bytes).await.unwrap();
    let begun = Arc::clone(&service.begun);
    eventually("it begins", move || begun.load(Ordering::SeqCst) >= 4).await;
    let other = transport(|_| {});
    for _ in 0..50 {
        other.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    }
    let ended = service.ended.load(Ordering::SeqCst);
    assert!(ended < 200, "{ended} megabytes are waiting for a caller that does not read");
    server.shutdown().await;
}

/// A peer that accepts and says nothing: what was not written is not sent; what was is lost.
#[tokio::test]
async fn a_silent_peer_is_given_up_at_the_deadline_and_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let transport = transport(|config| config.connect_timeout_ms = 100);
    let started = Instant::now();
    let error = transport.call(&peer(&addr), ECHO, Bytes::new(), Duration::from_millis(40)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    let error = transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Something that is no log node answers, for instance a web server.
#[tokio::test]
async fn a_stranger_on_the_other_side_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    });
    let error = transport(|_| {}).call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::NotSent { reason, .. } if reason.contains("no log node")), "{error:?}");
}

/// Goal: callers that hammer a dead peer make few attempts to connect. Method: a listener that counts and closes.
#[tokio::test]
async fn a_peer_that_hangs_up_meets_no_storm() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let transport = transport(|config| config.reconnect_backoff_ms = 50);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(300) {
        let error = transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
        tokio::task::yield_now().await;
    }
    let (attempts, pauses) = (accepted.load(Ordering::SeqCst) as u128, started.elapsed().as_millis() / 50);
    assert!(attempts <= pauses + 2, "{attempts} attempts in {pauses} pauses");
}

/// Goal: "not sent" is certain. Method: a peer that welcomes and then reads nothing: what does not fit the socket's
/// buffer must be called not sent, and what the peer can still read must not.
#[tokio::test]
async fn not_sent_is_said_only_of_what_the_peer_can_never_read() {
    let service = Scripted::new(1, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let welcome = codec::encode(&service.welcome);
    let reading = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let greeting = [&preamble()[..], &header(FrameKind::Welcome, 0, 0, welcome.len() as u32), &welcome].concat();
        stream.write_all(&greeting).await.unwrap();
        released.await.unwrap();
        let mut bytes = BytesMut::new();
        while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {}
        let mut buffer = FrameBuffer::default();
        buffer.room().extend_from_slice(&bytes[PREAMBLE_BYTES..]);
        let mut seen = Vec::new();
        while let Some(frame) = buffer.take_frame(16 << 20).unwrap() {
            if frame.kind == FrameKind::Request {
                seen.push(frame.body[0]);
            }
        }
        seen
    });
    let transport = transport(|_| {});
    let calls: Vec<_> = (0..40u8)
        .map(|number| {
            let (transport, to) = (Arc::clone(&transport), peer(&addr));
            tokio::spawn(async move {
                let body = Bytes::from(vec![number; 1 << 20]);
                transport.call(&to, ECHO, body, Duration::from_millis(300)).await
            })
        })
        .collect();
    let (mut lost, mut not_sent) = (0, Vec::new());
    for (number, call) in (0u8..).zip(calls) {
        match call.await.unwrap().unwrap_err() {
            CallError::Lost { .. } => lost += 1,
            CallError::NotSent { .. } => not_sent.push(number),
            error @ CallError::Refused { .. } => panic!("{error:?}"),
        }
    }
    assert!(lost > 0 && !not_sent.is_empty(), "{lost} lost, {not_sent:?} not sent");
    release.send(()).unwrap();
    // Time for the transport to write on whatever it would.
    let answered = transport.call(&peer(&addr), ECHO, Bytes::from_static(&[200]), Duration::from_millis(200)).await;
    assert!(answered.is_err());
    drop(transport);
    let seen = timeout(LONG, reading).await.unwrap().unwrap();
    assert!(seen.contains(&200), "the connection did not live on");
    for number in not_sent {
        assert!(!seen.contains(&number), "request {number} was called not sent, and the peer read it");
    }
}

#[tokio::test]
async fn a_shut_down_server_frees_its_port_and_a_dropped_transport_its_connections() {
    let service = Scripted::new(1, None);
    let (server, addr) = start(&service, |_| {}).await;
    let transport = transport(|_| {});
    transport.call(&peer(&addr), ECHO, Bytes::new(), LONG).await.unwrap();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(transport);
    eventually("both sides' tasks end", move || {
        tokio::runtime::Handle::current().metrics().num_alive_tasks() + 2 <= before
    })
    .await;
    server.shutdown().await;
    drop(TcpListener::bind(&addr).await.unwrap());
}
