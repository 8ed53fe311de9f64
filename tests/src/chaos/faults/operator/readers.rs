//! Clients that ask and do not read: feeds, scans and single values at serving nodes, records at log nodes.
//!
//! * Their receive buffers are tiny, so that the answers stay with the node.
//! * Expected: what a node holds for them is bounded, others are served meanwhile, and the memory goes back.

use super::{BOTH, SERVED_WITHIN};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{NODES, Node, Stage};
use crate::harness::http::kv;
use crate::harness::{Rng, poll};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

/// Large values that answers consist of.
const VALUES: usize = 12;
const VALUE_BYTES: usize = 1 << 20;
/// Clients that do not read, of each kind at each node.
const FEEDS: usize = 40;
const SCANS: usize = 24;
const READS: usize = 24;
const LOG_READS: usize = 24;
/// How much more memory a node may take for all of them. Unit: MiB.
const HELD_MIB_MAX: u64 = 400;
/// How much more it may have when they are gone: the allocator keeps pages of large answers for the next ones, and the index's cache
/// and overlay fill meanwhile. 212 were seen once. Unit: MiB.
const KEPT_MIB_MAX: u64 = 300;
/// How long it may take to give memory back.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(60);

pub(in crate::chaos::faults) async fn unread(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    write_values(stage, rng).await?;
    let history = stage.history().await?;
    let before: Vec<u64> = NODES.iter().map(|&node| memory_mib(stage, node)).collect();
    let mut unread = Vec::new();
    for node in NODES {
        let addr = stage.http(node).addr();
        for (count, target) in questions(node, &history) {
            for _ in 0..count {
                // One that is refused holds nothing.
                unread.extend(ask(addr, &target).await);
            }
        }
    }
    hold.wait().await;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    // What is held for them is there after a few pages at the latest; a node that is killed for it is seen too.
    sleep(Duration::from_secs(1)).await;
    stage.check_alive(&NODES)?;
    let held: Vec<u64> = NODES.iter().map(|&node| memory_mib(stage, node)).collect();
    let count = unread.len();
    drop(unread);
    let mut told = Vec::new();
    for (node, (&before, &held)) in NODES.into_iter().zip(before.iter().zip(&held)) {
        told.push(format!("{node} {before} to {held} MiB"));
        if held > before + HELD_MIB_MAX {
            return Err(format!("{node} took {held} MiB for {count} clients that do not read, and {before} before"));
        }
        let what = format!("{node} to give back what it held for clients that did not read: {before} MiB before");
        let stage = &*stage;
        poll(&what, GIVEN_BACK_WITHIN, || async {
            let now = memory_mib(stage, node);
            if now <= before + KEPT_MIB_MAX { Ok(()) } else { Err(format!("{now} MiB")) }
        })
        .await?;
    }
    Ok(format!("{count} clients; {}", told.join(", ")))
}

fn memory_mib(stage: &Stage, node: Node) -> u64 {
    let process = match node {
        Node::Log(number) => &stage.cluster.log[number],
        Node::Serving(number) => &stage.cluster.serving[number],
    };
    process.memory_kib("VmRSS") / 1024
}

/// What is asked at a node, and how often.
fn questions(node: Node, history: &str) -> Vec<(usize, String)> {
    match node {
        Node::Serving(_) => vec![
            (FEEDS, format!("/v1/feed?from={history}.&prefix=unread")),
            (SCANS, "/v1/kv?prefix=unread&limit=1000".to_owned()),
            (READS, kv("unread/0")),
        ],
        Node::Log(_) => {
            let partitions = 0..4;
            partitions.map(|partition| (LOG_READS / 4, format!("/v1/log/{partition}?from=0&limit=1000"))).collect()
        }
    }
}

/// Asks over a connection that takes hardly any bytes.
async fn ask(addr: SocketAddr, target: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_recv_buffer_size(4096).ok()?;
    let mut stream = timeout(Duration::from_secs(2), socket.connect(addr)).await.ok()?.ok()?;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    Some(stream)
}

async fn write_values(stage: &Stage, rng: &mut Rng) -> Result<(), String> {
    for number in 0..VALUES {
        let http = stage.cluster.http(number % BOTH.len());
        let value: Vec<u8> = rng.bytes(VALUE_BYTES).into_iter().map(|byte| b'a' + byte % 26).collect();
        let key = kv(format!("unread/{number}"));
        poll(&format!("a large value at {}", http.addr()), SERVED_WITHIN, || async {
            let call = http.put(&*key, value.clone()).wait(5).limit(Duration::from_secs(10));
            let answer = call.send().await.map_err(|error| error.to_string())?;
            if answer.status == 204 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await?;
    }
    Ok(())
}
