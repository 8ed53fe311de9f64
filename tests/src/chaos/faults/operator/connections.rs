//! Connections on which nothing happens, thousands of them: probes that do not close, load balancers, broken clients.
//!
//! * Some say nothing, some stop in the middle of a request's head.
//! * Expected: other clients are answered meanwhile, over new connections; afterwards the descriptors come back.

use super::{BOTH, SERVED_WITHIN};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{NODES, Node, QUESTION, Stage};
use crate::harness::{Http, Rng, poll};
use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// So many to each port, where this process may have that many descriptors.
const EACH: usize = 1_200;
/// To one port of one node, instead: more than any listener takes.
const FLOOD: usize = 5_000;
/// Descriptors that this process keeps for itself.
const OWN: u64 = 800;
/// How many are opened at a time.
const AT_ONCE: usize = 64;
/// The beginning of a request.
const HALF: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: local";

/// Open connections on which nothing happens.
pub(super) struct Idle {
    streams: Vec<TcpStream>,
}

impl Idle {
    /// Opens so many to each of these; what is refused is not tried again.
    pub(super) async fn open(addrs: &[SocketAddr], each: usize) -> Idle {
        let each = each.min(budget() / addrs.len().max(1));
        let mut streams = Vec::new();
        for &addr in addrs {
            let mut left = each;
            while left > 0 {
                let count = left.min(AT_ONCE);
                let opened: Vec<TcpStream> =
                    join_all((0..count).map(|_| open(addr))).await.into_iter().flatten().collect();
                if opened.is_empty() {
                    break;
                }
                left -= count;
                streams.extend(opened);
            }
        }
        for stream in streams.iter_mut().step_by(3) {
            // One that was closed already need not be told.
            let _ = stream.write_all(HALF).await;
        }
        Idle { streams }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.streams.len()
    }
}

async fn open(addr: SocketAddr) -> Option<TcpStream> {
    timeout(Duration::from_secs(1), TcpStream::connect(addr)).await.ok()?.ok()
}

/// How many connections this process may have; it takes all descriptors that it may have.
fn budget() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most.saturating_sub(OWN)).unwrap_or(usize::MAX).max(64)
}

/// Every port of a node.
pub(super) fn ports(stage: &Stage, node: Node) -> Vec<SocketAddr> {
    match node {
        Node::Log(number) => vec![stage.http(node).addr(), stage.cluster.log_rpc(number)],
        Node::Serving(_) => vec![stage.http(node).addr()],
    }
}

/// Idle connections at every port of every node, or very many at one.
pub(in crate::chaos::faults) async fn idle(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let before: Vec<usize> = NODES.iter().map(|&node| stage.process(node).open_files()).collect();
    let (idle, told) = match rng.below(2) {
        0 => {
            let addrs: Vec<SocketAddr> = NODES.iter().flat_map(|&node| ports(stage, node)).collect();
            let idle = Idle::open(&addrs, EACH).await;
            let told = format!("{} at {} ports of all nodes", idle.count(), addrs.len());
            (idle, told)
        }
        _ => {
            let victim = stage.some_victim(rng).await;
            let addr = *rng.pick(&ports(stage, victim));
            let idle = Idle::open(&[addr], FLOOD).await;
            let told = format!("{} at {victim}, {addr}", idle.count());
            (idle, told)
        }
    };
    hold.wait().await;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    for node in NODES {
        // Over a new connection.
        let http = stage.http(node);
        poll(&format!("{node} to answer beside idle connections"), SERVED_WITHIN, || answers(&http)).await?;
    }
    stage.check_alive(&NODES)?;
    drop(idle);
    for (node, before) in NODES.into_iter().zip(before) {
        given_back(stage, node, before).await?;
    }
    Ok(told)
}

async fn answers(http: &Http) -> Result<(), String> {
    let answer = http.get("/readyz").limit(QUESTION).send().await.map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(()) } else { Err(answer.to_string()) }
}

/// Waits until a node has about as many descriptors open as before.
pub(super) async fn given_back(stage: &mut Stage, node: Node, before: usize) -> Result<(), String> {
    // Clients of the workloads, and files that were rolled meanwhile.
    let slack = 250;
    let process = stage.process(node);
    let what = format!("{node} to have about {before} files open again");
    poll(&what, SERVED_WITHIN, || async {
        let now = process.open_files();
        if now <= before + slack { Ok(()) } else { Err(format!("{now}")) }
    })
    .await
}
