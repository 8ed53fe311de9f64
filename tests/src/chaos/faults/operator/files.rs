//! Descriptors that run out, while the log needs new files.
//!
//! * `Usual`: all log nodes run under the usual soft limit of 1,024, and more idle connections than that come. Expected: the
//!   log goes on.
//! * `Lowered`: a running node may open hardly any more files, as when the machine has none left. Expected: it lives, and
//!   goes on when there are files again.
//! * `TooFew`: a node is started with a hard limit of few files. Expected: it works, or it refuses to start and says why.

use super::connections::{Idle, given_back};
use super::{BOTH, SERVED_WITHIN, roll, said};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{NODES, Node, QUESTION, Stage};
use crate::harness::http::kv;
use crate::harness::process::Manner;
use crate::harness::{Http, Rng, poll};
use futures_util::future::join_all;
use std::cell::RefCell;
use std::net::SocketAddr;

/// The usual soft limit of files of shells and of services.
const USUAL: usize = 1_024;
/// Hard limits that may be too low.
const FEW: [u64; 3] = [48, 96, 200];
/// Values that make every partition begin files: the log's files are of 1 MiB here.
const ROLL_VALUES: usize = 64;
const ROLL_BYTES: usize = 96 * 1024;
/// How many of them are written at a time.
const AT_ONCE: usize = 8;

const LOG_NODES: [Node; 3] = [Node::Log(0), Node::Log(1), Node::Log(2)];

pub(in crate::chaos::faults) async fn exhausted(
    stage: &mut Stage,
    rng: &mut Rng,
    hold: &Hold,
) -> Result<String, String> {
    match rng.below(3) {
        0 => usual(stage, hold).await,
        1 => lowered(stage, rng, hold).await,
        _ => too_few(stage, rng, hold).await,
    }
}

fn limited(limits: &str) -> Manner {
    Manner { wrapper: vec!["prlimit".into(), format!("--nofile={limits}").into(), "--".into()], ..Manner::default() }
}

async fn usual(stage: &mut Stage, hold: &Hold) -> Result<String, String> {
    for node in LOG_NODES {
        // The soft limit only, as it is everywhere.
        stage.set_manner(node, limited(&format!("{USUAL}:")));
    }
    roll(stage, &LOG_NODES).await?;
    let before: Vec<usize> = LOG_NODES.iter().map(|&node| stage.process(node).open_files()).collect();
    let addrs: Vec<SocketAddr> = LOG_NODES.iter().map(|&node| stage.http(node).addr()).collect();
    let idle = Idle::open(&addrs, USUAL + 100).await;
    begin_files(stage, true).await?;
    hold.wait().await;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    stage.check_alive(&NODES)?;
    let told = format!("log nodes with {USUAL} files, {} idle connections", idle.count());
    drop(idle);
    for (node, before) in LOG_NODES.into_iter().zip(before) {
        given_back(stage, node, before).await?;
        stage.put_back(node);
    }
    Ok(told)
}

async fn lowered(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    let addr = stage.http(victim).addr();
    let few = stage.process(victim).open_files() as u64 + rng.below(4) as u64;
    let before = stage.process(victim).limit_files(few)?;
    let idle = Idle::open(&[addr], 40).await;
    // What a node cannot write now is refused or waits; the others may have to lead first.
    let rolled = begin_files(stage, false).await;
    hold.wait().await;
    let alive = stage.check_alive(&NODES);
    if alive.is_ok() {
        stage.process(victim).limit_files(before)?;
    }
    drop(idle);
    alive.and(rolled)?;
    Ok(format!("{victim} may have {few} files"))
}

async fn too_few(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    let few = *rng.pick(&FEW);
    stage.set_manner(victim, limited(&format!("{few}:{few}")));
    let said_before = stage.process(victim).output().len();
    stage.restart(victim).await?;
    let http = stage.http(victim);
    let process = RefCell::new(stage.process(victim));
    let started = poll(&format!("{victim} to be ready with {few} files, or to refuse"), SERVED_WITHIN, || async {
        let alive = process.borrow_mut().check_alive();
        if let Err(ended) = alive {
            let refusal = said(&process.borrow(), said_before, &["files"]);
            return Ok(refusal.map(|_| false).map_err(|_| format!("not refused by a reason: {ended}")));
        }
        let ready = http.get("/readyz").limit(QUESTION).send().await.map_err(|error| error.to_string())?;
        if ready.status == 200 { Ok(Ok(true)) } else { Err(ready.to_string()) }
    })
    .await;
    let is_ready = started??;
    if is_ready {
        begin_files(stage, false).await?;
        hold.wait().await;
        stage.check_alive(&[victim])?;
    }
    stage.put_back(victim);
    stage.process(victim).kill();
    stage.start_node(victim);
    Ok(format!("{victim} with {few} files {}", if is_ready { "works" } else { "refuses to start" }))
}

/// Writes so much that every partition begins new files. Where it `must` be served, each write is asked for until it is.
async fn begin_files(stage: &Stage, must: bool) -> Result<(), String> {
    let nodes = [stage.cluster.http(0), stage.cluster.http(1)];
    let write = async |number: usize| {
        let http = &nodes[number % nodes.len()];
        if must {
            return poll(&format!("large write {number}"), SERVED_WITHIN, || large_write(http, number)).await;
        }
        // Refused or not: what was refused is not in the log, which others look at.
        let _ = large_write(http, number).await;
        Ok(())
    };
    for first in (0..ROLL_VALUES).step_by(AT_ONCE) {
        let written = join_all((first..first + AT_ONCE).map(&write)).await;
        written.into_iter().collect::<Result<(), String>>()?;
    }
    Ok(())
}

async fn large_write(http: &Http, number: usize) -> Result<(), String> {
    let value = vec![b'a' + (number % 26) as u8; ROLL_BYTES];
    let call = http.put(kv(format!("large/{number}")), value).wait(1).limit(QUESTION);
    let answer = call.send().await.map_err(|error| error.to_string())?;
    if answer.status == 204 { Ok(()) } else { Err(answer.to_string()) }
}
