//! The listener, held to its limits by callers that write their own bytes.

use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes; only a hang gets there.
const HANG: Duration = Duration::from_secs(20);
const PING: &[u8] = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// `/park` waits for the gate; `/late` for the end of a stop's grace; `/refuse` answers without reading; `/large` answers 64 MiB;
/// everything else reads the body and says how long it was, or why it is not there.
#[derive(Clone)]
struct Echo {
    gate: Arc<Notify>,
}

impl Handler for Echo {
    type Body = Full<Bytes>;

    async fn answer(&self, mut request: Request<RequestBody>) -> Response<Full<Bytes>> {
        let text = match request.uri().path() {
            "/park" => {
                self.gate.notified().await;
                "parked".to_owned()
            }
            "/late" => {
                request.body_mut().take_overtime().expect("nobody took it").passed().await;
                "late".to_owned()
            }
            "/refuse" => "refused".to_owned(),
            "/large" => return Response::new(Full::new(Bytes::from(vec![b'x'; 64 << 20]))),
            _ => match request.into_body().collect().await {
                Ok(body) => body.to_bytes().len().to_string(),
                Err(error) => error.to_string(),
            },
        };
        Response::new(Full::new(Bytes::from(text)))
    }
}

struct Running {
    addr: SocketAddr,
    stats: Arc<HttpStats>,
    stopper: Stopper,
    gate: Arc<Notify>,
    task: JoinHandle<()>,
}

async fn start(limits: HttpLimits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stats, stopper, gate) = (Arc::<HttpStats>::default(), Stopper::default(), Arc::new(Notify::new()));
    let handler = Echo { gate: Arc::clone(&gate) };
    let task = tokio::spawn(serve(listener, handler, limits, Arc::clone(&stats), stopper.stop()));
    Running { addr, stats, stopper, gate, task }
}

impl Running {
    /// Opens a connection and sends these bytes.
    async fn open(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn until(&self, what: &str, holds: impl Fn(HttpCounts) -> bool) {
        let waiting = async {
            while !holds(self.stats.counts()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.stats.counts()));
    }

    async fn end(self) {
        self.stopper.end_grace();
        timeout(HANG, self.task).await.unwrap().unwrap();
        assert_eq!(self.stats.counts().open, 0);
        assert_eq!(self.stats.counts().body_bytes, 0);
    }
}

/// Everything until the other side closes, or resets.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer's head and body, of a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let reading = async {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
            let mut byte = [0; 1024];
            match stream.read(&mut byte).await.unwrap() {
                0 => return text,
                count => bytes.extend_from_slice(&byte[..count]),
            }
        }
    };
    timeout(HANG, reading).await.expect("an answer comes")
}

/// Goal: a health probe is answered while many times as many idle connections are held as there are places.
#[tokio::test]
async fn idle_connections_do_not_lock_out_a_probe() {
    let running = start(HttpLimits { connections_max: 8, ..HttpLimits::default() }).await;
    let mut held = Vec::new();
    for number in 0..60 {
        held.push(running.open(if number % 2 == 0 { b"" } else { PING }).await);
    }
    let mut probe = running.open(PING).await;
    assert!(answer(&mut probe).await.starts_with("HTTP/1.1 200"));
    assert!(running.stats.counts().evicted >= 50, "{:?}", running.stats.counts());
    assert!(running.stats.counts().open <= 8);
    running.end().await;
}

/// Goal: requests under way keep their places; a new caller waits for one of them.
#[tokio::test]
async fn a_request_under_way_is_not_given_up_for_a_new_caller() {
    let running = start(HttpLimits { connections_max: 2, ..HttpLimits::default() }).await;
    let park = b"GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut parked = [running.open(park).await, running.open(park).await];
    running.until("both are open", |counts| counts.open == 2).await;
    let mut third = running.open(PING).await;
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(100), third.read(&mut byte)).await.is_err(), "served beside two");
    running.gate.notify_waiters();
    for stream in &mut parked {
        assert!(answer(stream).await.ends_with("parked"));
    }
    assert!(answer(&mut third).await.starts_with("HTTP/1.1 200"));
    running.end().await;
}

/// Goal: each way of saying too little ends: nothing at all, nothing more after an answer, a head that dribbles, a body
/// that dribbles.
#[tokio::test]
async fn who_says_too_little_is_closed() {
    let soon = Duration::from_millis(80);
    let limits = HttpLimits { idle_timeout: soon, head_timeout: soon, body_timeout: soon, ..HttpLimits::default() };
    let running = start(limits).await;
    assert_eq!(rest(&mut running.open(b"").await).await, "");
    assert!(rest(&mut running.open(PING).await).await.starts_with("HTTP/1.1 200"));
    // Each byte comes in time; together they do not.
    let mut slow = running.open(b"GET").await;
    let dribbling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if slow.write_all(b"x").await.is_err() {
                break;
            }
            let mut bytes = [0; 512];
            if let Ok(count) = slow.try_read(&mut bytes) {
                break assert!(bytes[..count].starts_with(b"HTTP/1.1 400"), "{}", bytes[..count].escape_ascii());
            }
        }
    };
    timeout(HANG, dribbling).await.unwrap();
    let mut slow = running.open(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab").await;
    assert!(rest(&mut slow).await.contains("did not come whole within"));
    running.until("all places are free", |counts| counts.open == 0).await;
    assert!(running.stats.counts().timed_out >= 2);
    running.end().await;
}

/// Goal: a caller that does not take its answer is cut off, and its place is free.
#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let running = start(HttpLimits { write_timeout: Duration::from_millis(80), ..HttpLimits::default() }).await;
    let stream = running.open(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    running.until("it is cut off", |counts| counts.not_read == 1 && counts.open == 0).await;
    drop(stream);
    running.end().await;
}

/// Goal: all bodies together hold no more than they may; what is over is refused, and the room comes back.
#[tokio::test]
async fn bodies_are_bounded_together() {
    let limits = HttpLimits { bodies_bytes_max: 100_000, ..HttpLimits::default() };
    let running = start(limits).await;
    let head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 80000\r\n\r\n";
    let mut first = running.open(head).await;
    first.write_all(&[b'x'; 70_000]).await.unwrap();
    running.until("the first is held", |counts| counts.body_bytes == 70_000).await;
    let mut second = running.open(head).await;
    second.write_all(&[b'x'; 80_000]).await.unwrap();
    assert!(answer(&mut second).await.contains("its limit"));
    first.write_all(&[b'x'; 10_000]).await.unwrap();
    assert!(answer(&mut first).await.ends_with("80000"));
    running.until("the room comes back", |counts| counts.body_bytes == 0).await;
    running.end().await;
}

/// Goal: who waits for `100 Continue` and is refused is told that the connection ends, because its body is not read.
#[tokio::test]
async fn a_refused_expectation_closes_the_connection() {
    let running = start(HttpLimits::default()).await;
    let head = b"PUT /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    let told = rest(&mut running.open(head).await).await;
    assert!(told.starts_with("HTTP/1.1 200") && told.contains("connection: close"), "{told}");
    // One that is taken goes on.
    let head = b"PUT /take HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let mut taken = running.open(head).await;
    assert!(answer(&mut taken).await.starts_with("HTTP/1.1 100"));
    taken.write_all(b"ab").await.unwrap();
    let told = answer(&mut taken).await;
    assert!(told.ends_with('2') && !told.contains("connection: close"), "{told}");
    // A refused body that is sent all the same is read, and the connection goes on.
    let mut read = running.open(b"PUT /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab").await;
    assert!(!answer(&mut read).await.contains("connection: close"));
    read.write_all(PING).await.unwrap();
    assert!(answer(&mut read).await.starts_with("HTTP/1.1 200"));
    running.end().await;
}

/// Goal: HTTP/2 with prior knowledge gets an answer, however its first bytes are cut; a request that begins alike is one.
#[tokio::test]
async fn http2_is_refused_by_name() {
    let running = start(HttpLimits::default()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for cut in [preface.len(), 1, 7, 14] {
        let mut stream = running.open(&preface[..cut]).await;
        tokio::task::yield_now().await;
        let _ = stream.write_all(&preface[cut..]).await;
        let told = rest(&mut stream).await;
        assert!(told.starts_with("HTTP/1.1 400") && told.contains("HTTP/2 is not offered"), "{cut}: {told}");
        assert!(told.contains("application/problem+json"), "{told}");
    }
    let mut other = running.open(b"PRI /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer(&mut other).await.starts_with("HTTP/1.1 200"));
    running.end().await;
}

/// Goal: what hyper refuses by itself is a problem with its limit. Method: the long and the wide head many times, because how much is
/// read at once is up to timing.
#[tokio::test]
async fn what_is_not_a_request_is_a_problem() {
    let running = start(HttpLimits::default()).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000));
    let wide = format!("GET / HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "x".repeat(200_000));
    let cases: [(&[u8], &str); 3] =
        [(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n", "400"), (long.as_bytes(), "413"), (wide.as_bytes(), "413")];
    for (bytes, status) in cases.into_iter().cycle().take(3 * 200) {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let told = rest(&mut stream).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}")) && told.contains("\"type\""), "{told}");
        assert_eq!(status == "413", told.contains("\"limit\""), "{told}");
    }
    running.end().await;
}

/// Goal: a stop closes the port first, lets what is under way end, and says `Connection: close`. After the grace it tells who
/// still waits.
#[tokio::test]
async fn a_stop_answers_who_is_there_and_takes_nobody_new() {
    let running = start(HttpLimits::default()).await;
    let mut idle = running.open(PING).await;
    answer(&mut idle).await;
    let mut parked = running.open(b"GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut sending = running.open(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab").await;
    let mut waiting = running.open(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    running.until("all are there", |counts| counts.open == 4 && counts.body_bytes == 2).await;
    running.stopper.ask();
    assert_eq!(rest(&mut idle).await, "", "an idle connection just ends");
    assert!(TcpStream::connect(running.addr).await.is_err(), "nobody new comes in");
    running.gate.notify_waiters();
    let told = rest(&mut parked).await;
    assert!(told.ends_with("parked") && told.contains("connection: close"), "{told}");
    assert!(timeout(Duration::from_millis(20), rest(&mut waiting)).await.is_err(), "the grace is not over");
    running.stopper.end_grace();
    let told = rest(&mut waiting).await;
    assert!(told.ends_with("late") && told.contains("connection: close"), "{told}");
    let told = rest(&mut sending).await;
    assert!(told.contains("this node is stopping") && told.contains("connection: close"), "{told}");
    running.end().await;
}

/// Goal: a caller that closes its side once it has said everything gets its answer. Method: whole requests, with and without a
/// body, and one that is answered late; then the end of the sending side.
#[tokio::test]
async fn a_caller_that_has_said_everything_is_answered() {
    let running = start(HttpLimits::default()).await;
    let put = b"PUT /v HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nvalue";
    for (request, said) in [(PING, "0"), (put, "5"), (b"GET /park HTTP/1.1\r\nHost: localhost\r\n\r\n", "parked")] {
        let mut caller = running.open(request).await;
        caller.shutdown().await.unwrap();
        running.gate.notify_one();
        let answered = rest(&mut caller).await;
        assert!(answered.starts_with("HTTP/1.1 200") && answered.ends_with(said), "{answered}");
    }
    let mut half = running.open(b"PUT /v HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nva").await;
    half.shutdown().await.unwrap();
    let answered = rest(&mut half).await;
    assert!(answered.contains("did not come whole"), "{answered}");
    running.end().await;
}

/// Goal: a refusal does not wait for a body that does not come. Method: a caller that announces a large body and waits.
#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_wait_for_the_body() {
    let running = start(HttpLimits::default()).await;
    let began = tokio::time::Instant::now();
    let mut caller = running.open(b"PUT /refuse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n").await;
    let answered = answer(&mut caller).await;
    assert!(answered.to_ascii_lowercase().contains("connection: close"), "{answered}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(caller);
    running.end().await;
}
