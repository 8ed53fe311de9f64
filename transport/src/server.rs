//! `TcpServer`: answers callers over TCP.
//!
//! * In: a listener and a `Service`. Out: answers, many to a write. Each connection has one task, which reads, runs the
//!   requests that are under way, and writes; requests begin in the order in which they came and end in any.
//! * Limits: at `connections_max` the silent make room (`callers`), and when nobody is silent a client is told so and closed;
//!   at `requests_in_flight_max` or `in_flight_bytes_max`, or while a caller does not read its answers, nothing more is
//!   read from it; a frame over its limit is refused by its header alone. Who says nothing, who does not finish a frame
//!   and who takes no answer is closed in time.
//! * Invariant: whoever speaks something else gets one answer that says what speaks here, and is closed.
//! * Deliberately absent: what bodies mean; threads (a service that blocks must bring its own).
//! * Source: DESIGN D10; docs/formats.md "Frames between processes".

use crate::callers::{Caller, Callers};
use crate::exchange::{self, Cut};
use crate::frame::{self, FrameBuffer, FrameError, FrameKind};
use crate::outgoing::Outgoing;
use crate::{Hello, Role, Service, history_met, sockets};
use bytes::Bytes;
use duramen_common::seldom::Seldom;
use duramen_common::{codec, limits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// How many callers over `connections_max` are heard at the same time: log nodes stay, clients are told that there are
/// too many. Each may cost a file.
pub const EXTRA_CALLERS_MAX: usize = 16;
/// How long a refused caller has to take its reason.
const FAREWELL: Duration = Duration::from_millis(500);
/// Pause after the system refused to accept, for instance for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How many reads of a refused caller's bytes are discarded before it is closed regardless.
const FAREWELL_READS_MAX: usize = 64;
/// What a browser or curl is told.
const HTTP_FAREWELL: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\nThis port speaks Duramen's framed protocol between nodes, not HTTP: \
    the HTTP API is on this node's other port.\n";

/// Limits of a [`TcpServer`].
#[derive(Clone, Debug)]
pub struct TcpServerConfig {
    /// Most connections; a further caller is told so and closed.
    pub connections_max: usize,
    /// Most requests of one connection under way; beyond, nothing more is read from it.
    pub requests_in_flight_max: usize,
    /// Largest body of a request or an answer. Unit: bytes.
    pub frame_bytes_max: usize,
    /// How long a caller may take for its hello. Unit: milliseconds.
    pub handshake_timeout_ms: u64,
    /// A caller without a request under way that says nothing for this long is closed. Unit: milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a frame may take from its first byte to its last. Unit: milliseconds.
    pub frame_timeout_ms: u64,
    /// A caller that takes no byte of its answers for this long is closed. Unit: milliseconds.
    pub write_timeout_ms: u64,
    /// Most bytes of one connection's requests under way; beyond, nothing more is read from it. Unit: bytes.
    pub in_flight_bytes_max: usize,
    /// Most bytes of all clients' requests under way and answers that wait. Unit: bytes.
    pub in_flight_bytes_total_max: usize,
}

impl Default for TcpServerConfig {
    fn default() -> TcpServerConfig {
        TcpServerConfig {
            connections_max: 1_024,
            requests_in_flight_max: 1_024,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 75_000,
            frame_timeout_ms: 120_000,
            write_timeout_ms: 60_000,
            in_flight_bytes_max: 64 * 1024 * 1024,
            in_flight_bytes_total_max: 256 * 1024 * 1024,
        }
    }
}

/// What a server has seen since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpServerCounts {
    /// Connections that were welcomed.
    pub welcomed: u64,
    /// Connections that were refused or cut off, for whatever reason.
    pub refused: u64,
    /// Requests that were handed to the service.
    pub requests: u64,
}

/// A listening server. Dropping it closes everything.
pub struct TcpServer {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

pub(crate) struct Shared {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) config: TcpServerConfig,
    pub(crate) callers: Arc<Callers>,
    welcomed: AtomicU64,
    refused: AtomicU64,
    pub(crate) requests: AtomicU64,
}

/// Serves on a bound listener until the server is shut down or dropped. Panics when the listener has no address.
#[must_use]
pub fn serve(listener: TcpListener, service: Arc<dyn Service>, config: TcpServerConfig) -> TcpServer {
    let local_addr = listener.local_addr().expect("a bound listener has an address");
    let callers = Callers::new(config.connections_max, config.in_flight_bytes_total_max);
    let (welcomed, refused, requests) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let shared = Arc::new(Shared { service, config, callers, welcomed, refused, requests });
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, Arc::clone(&shared), stopped));
    TcpServer { local_addr, shared, stop, task }
}

impl TcpServer {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has seen.
    #[must_use]
    pub fn counts(&self) -> TcpServerCounts {
        TcpServerCounts {
            welcomed: self.shared.welcomed.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            requests: self.shared.requests.load(Ordering::Relaxed),
        }
    }

    /// Stops listening and closes every connection; requests under way are dropped. Returns when all tasks have ended.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::debug!(%error, "the listening task ended badly");
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let failing = Seldom::default();
    loop {
        // Beyond that, callers wait in the kernel's queue: those who are sent away and told so are gone in a moment.
        let has_place = connections.len() < shared.config.connections_max + EXTRA_CALLERS_MAX;
        let accepted = tokio::select! {
            accepted = listener.accept(), if has_place => accepted,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::warn!(%error, "a connection's task ended badly");
                }
                continue;
            }
            _ = stopped.wait_for(|&stopped| stopped) => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let caller = shared.callers.enter(Instant::now());
                let shared = Arc::clone(&shared);
                connections.spawn(async move { attend(stream, from, caller, &shared).await });
            }
            Err(error) => {
                if let Some(unsaid) = failing.is_due(Instant::now()) {
                    tracing::warn!(%error, open = connections.len(), unsaid, "cannot accept a connection between nodes");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// One caller, from its first byte to its last.
async fn attend(mut stream: TcpStream, from: SocketAddr, caller: Option<Caller>, shared: &Shared) {
    sockets::tune(&stream);
    let mut outgoing = Outgoing::default();
    outgoing.push_bytes(&frame::preamble());
    let cut = converse(&mut stream, &mut outgoing, from, caller.as_ref(), shared).await;
    let reason = match &cut {
        Cut::Closed => return,
        Cut::Refuse(reason, _) => reason,
        Cut::Http => "it speaks HTTP",
    };
    shared.refused.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%from, %reason, "cut off a caller");
    let _ = timeout(FAREWELL, say_farewell(&mut stream, &mut outgoing, &cut)).await;
}

async fn converse(
    stream: &mut TcpStream,
    outgoing: &mut Outgoing,
    from: SocketAddr,
    caller: Option<&Caller>,
    shared: &Shared,
) -> Cut {
    let mut incoming = FrameBuffer::default();
    let limit = Duration::from_millis(shared.config.handshake_timeout_ms);
    let hello = tokio::select! {
        hello = timeout(limit, read_hello(stream, &mut incoming)) => match hello {
            Ok(Ok(hello)) => hello,
            Ok(Err(cut)) => return cut,
            Err(_) => return Cut::told(format!("no hello within {} ms", limit.as_millis())),
        },
        // It has said nothing, so that closing discards nothing; a farewell would keep the place of a next caller.
        () = sent_away(caller) => return Cut::Closed,
    };
    match caller {
        Some(caller) => caller.greeted(&hello.role, Instant::now()),
        None if matches!(hello.role, Role::LogNode { .. }) => {}
        None => {
            return Cut::told(format!(
                "{} connections are open here, the limit: try again later or raise connections_max",
                shared.config.connections_max
            ));
        }
    }
    let welcome = match shared.service.greet(&hello) {
        Ok(welcome) => welcome,
        Err(refusal) => return Cut::Refuse(refusal.reason, history_met(shared.service.as_ref(), &hello)),
    };
    shared.welcomed.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%from, role = ?hello.role, "welcomed a caller");
    outgoing.push(FrameKind::Welcome, 0, 0, codec::encode(&welcome));
    exchange::run(stream, &mut incoming, outgoing, &hello, caller, shared).await
}

/// Resolves when another caller needs this one's place.
pub(crate) async fn sent_away(caller: Option<&Caller>) {
    match caller {
        Some(caller) => caller.leave().await,
        None => std::future::pending().await,
    }
}

async fn read_hello(stream: &mut TcpStream, incoming: &mut FrameBuffer) -> Result<Hello, Cut> {
    let mut greeted = false;
    loop {
        if !greeted {
            check_first_bytes(incoming.pending())?;
            if let Some(preamble) = incoming.take_preamble() {
                frame::check_preamble(preamble).map_err(Cut::of)?;
                greeted = true;
            }
        }
        if greeted && let Some(frame) = incoming.take_frame(frame::HANDSHAKE_BYTES_MAX).map_err(Cut::of)? {
            if frame.kind != FrameKind::Hello {
                return Err(Cut::told("the first frame must be a hello".to_owned()));
            }
            return codec::decode(&frame.body).map_err(|error| Cut::told(format!("the hello: {error}")));
        }
        match stream.read_buf(incoming.room()).await {
            Ok(0) | Err(_) => return Err(Cut::Closed),
            Ok(_) => {}
        }
    }
}

/// Recognises strangers by their first bytes, before a whole preamble is there.
fn check_first_bytes(bytes: &[u8]) -> Result<(), Cut> {
    let Some(&found) = bytes.first_chunk::<4>() else { return Ok(()) };
    match &found {
        b"GET " | b"PUT " | b"POST" | b"HEAD" | b"DELE" | b"OPTI" | b"PATC" | b"CONN" | b"TRAC" | b"PRI " => {
            Err(Cut::Http)
        }
        _ if found != frame::MAGIC => Err(Cut::of(FrameError::Magic { found })),
        _ => Ok(()),
    }
}

/// Tells a caller why it is closed, and lets it read that: closing with unread bytes would discard the reason.
async fn say_farewell(stream: &mut TcpStream, outgoing: &mut Outgoing, cut: &Cut) -> std::io::Result<()> {
    match cut {
        Cut::Closed => return Ok(()),
        Cut::Http => {
            *outgoing = Outgoing::default();
            outgoing.push_bytes(HTTP_FAREWELL);
        }
        Cut::Refuse(reason, history) => {
            outgoing.push(
                FrameKind::Refused,
                0,
                frame::refusal_tag(*history),
                Bytes::copy_from_slice(reason.as_bytes()),
            );
        }
    }
    while !outgoing.is_empty() {
        outgoing.write_to(stream).await?;
    }
    stream.shutdown().await?;
    let mut discarded = [0; 4096];
    for _ in 0..FAREWELL_READS_MAX {
        if stream.read(&mut discarded).await? == 0 {
            break;
        }
    }
    Ok(())
}
