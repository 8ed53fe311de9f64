//! The harness's own tests: a cut that lets bytes through would make the others worthless.

use super::feed::Feed;
use super::http::{Http, HttpError, kv};
use super::ports::free_address;
use super::proxy::{Network, Proxy};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// A server that gives the same bytes to each request head, and notes nothing.
async fn canned(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0u8; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn bodies_end_where_http_says() {
    let http = Http::new(canned("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"000000.1:2\"\r\n\r\nhello").await);
    for _ in 0..3 {
        let answer = http.get(kv("a/b")).expect(200).await;
        assert_eq!((answer.text().as_str(), answer.version().to_string().as_str()), ("hello", "000000.1:2"));
        assert!(answer.asked.ends_with("/v1/kv/a%2Fb"));
    }
    let http = Http::new(
        canned("HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await,
    );
    assert_eq!(http.get("/").expect(404).await.text(), "abcde");
    let http = Http::new(canned("HTTP/1.1 204 No Content\r\n\r\n").await);
    assert!(http.put("/", "x").expect(204).await.body.is_empty());
}

#[tokio::test]
async fn an_answer_that_stops_halfway_is_lost_and_a_dead_port_was_not_sent_to() {
    let http = Http::new(canned("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello").await);
    let lost = http.get("/").limit(Duration::from_millis(200)).send().await;
    assert!(matches!(lost, Err(HttpError::Lost { .. })), "{lost:?}");
    let dead = Http::new(free_address()).get("/").send().await;
    assert!(matches!(dead, Err(HttpError::NotSent { .. })), "{dead:?}");
}

#[tokio::test]
async fn feed_events_are_parsed_over_chunk_borders() {
    let http = Http::new(
        canned(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             9\r\nevent: pu\r\n2a\r\nt\ndata: {\"key\":\"k\",\"value\":\"v\"}\nid: 7\n\n: \n\r\n3\r\nx\n\n\r\n0\r\n\r\n",
        )
        .await,
    );
    let mut feed = Feed::open(&http, "", None).await.unwrap();
    let event = feed.next(SOON).await.unwrap().unwrap();
    assert_eq!((event.kind.as_str(), event.id.as_deref(), event.key()), ("put", Some("7"), b"k".to_vec()));
    assert!(feed.next(SOON).await.unwrap().is_none());
}

/// Goal: a cut link holds bytes back and gives them when it heals; other links do not notice; `sever` closes.
#[tokio::test]
async fn a_cut_link_holds_bytes_back_until_it_heals() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::default();
    let target = listener.local_addr().unwrap();
    let proxy = Proxy::start(&network, "log-1", free_address(), target).await;
    let mut inside = TcpStream::connect(proxy.addr).await.unwrap();
    let (mut outside, _) = listener.accept().await.unwrap();
    let mut byte = [0u8; 1];
    inside.write_all(b"a").await.unwrap();
    outside.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"a");
    network.cut("serving-1", &["log-1"]);
    inside.write_all(b"b").await.unwrap();
    outside.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"b", "another link was cut");
    network.cut("tests", &["log-1"]);
    inside.write_all(b"c").await.unwrap();
    outside.write_all(b"d").await.unwrap();
    assert!(timeout(Duration::from_millis(200), outside.read_exact(&mut byte)).await.is_err(), "a byte passed a cut");
    assert!(timeout(Duration::from_millis(200), inside.read_exact(&mut byte)).await.is_err(), "a byte passed a cut");
    network.heal();
    outside.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"c");
    inside.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"d");
    network.sever("tests", "log-1");
    assert_eq!(timeout(SOON, inside.read(&mut byte)).await.unwrap().unwrap_or(0), 0, "the connection is closed");
}

/// Goal: a party is found by its process. Method: this process is registered; its connections are then that party's.
#[tokio::test]
async fn a_caller_is_known_by_its_process() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = Network::default();
    network.set_party(std::process::id(), "serving-9");
    let proxy = Proxy::start(&network, "log-1", free_address(), listener.local_addr().unwrap()).await;
    network.cut("serving-9", &["log-1"]);
    let mut inside = TcpStream::connect(proxy.addr).await.unwrap();
    inside.write_all(b"a").await.unwrap();
    assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err(), "a connection passed a cut");
    network.heal();
    timeout(SOON, listener.accept()).await.unwrap().unwrap();
}
