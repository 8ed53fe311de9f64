//! Nodes of another cluster where ours are expected, and two nodes of one name: a typo in an address, a copied configuration.
//!
//! * The other cluster is one log node, with a history of its own.
//! * Expected: a serving node that is configured with log nodes of two clusters, or of the wrong one, refuses and names both
//!   histories; it wipes nothing. A log node of another cluster in a member's place is named, and the others go on.

use super::{BOTH, SERVED_WITHIN, TOLD_WITHIN, changed, end_of, says, second_refused};
use crate::chaos::changes::history_at;
use crate::chaos::faults::Hold;
use crate::chaos::stage::{Node, QUESTION, Stage};
use crate::harness::cluster::Host;
use crate::harness::config::{self, LogAddresses};
use crate::harness::process::Process;
use crate::harness::{Http, Rng, poll};
use std::cell::RefCell;
use std::net::SocketAddr;

/// A cluster of one log node.
struct Stranger {
    process: Process,
    history: String,
    rpc: SocketAddr,
}

impl Stranger {
    /// One that runs, with history. Its number is `number` of 3 in ours.
    async fn start(stage: &Stage, host: &Host, number: usize, rpc: SocketAddr) -> Result<Stranger, String> {
        let http = stage.spare_address(host);
        let folder = stage.aside("strangers");
        let data = folder.join(format!("data-{}", http.port()));
        let addresses = LogAddresses { rpc_listen: rpc, rpc_advertised: rpc, http };
        // Its own place in the list is the only one that counts.
        let nodes = vec![addresses; number + 1];
        let text = config::log_node(number + 1, &data, &nodes, stage.cluster.partitions, "segment-mib = 1");
        let own = [("members", format!("[\"{}={rpc}/{}\"]", number + 1, http.port()))];
        let text: Vec<String> = text.lines().map(|line| changed(line, &own)).collect();
        let file = folder.join("stranger.toml");
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, text.join("\n")));
        written.map_err(|error| format!("{}: {error}", file.display()))?;
        let args = vec!["log-node".into(), "--config".into(), file.into()];
        let mut process = Process::new("stranger", &folder, args).launched_by(&host.launcher);
        process.start();
        let http = Http::new(http);
        let asking = || async {
            let history = history_at(&http).await?;
            let ready = http.get("/readyz").limit(QUESTION).send().await.map_err(|error| error.to_string())?;
            if ready.status == 200 { Ok(history) } else { Err(ready.to_string()) }
        };
        let history = poll("a cluster of one log node", SERVED_WITHIN, asking).await?;
        Ok(Stranger { process, history, rpc })
    }
}

/// A serving node whose list of log nodes has one of another cluster, or nothing else.
pub(in crate::chaos::faults) async fn wrong_cluster(
    stage: &mut Stage,
    rng: &mut Rng,
    hold: &Hold,
) -> Result<String, String> {
    let host = stage.strangers_host();
    let mut stranger = Stranger::start(stage, &host, 0, stage.spare_address(&host)).await?;
    let victim = Node::Serving(rng.below(stage.cluster.serving.len()));
    let history = stage.history().await?;
    let is_mixed = rng.below(3) > 0;
    let mut log_nodes = vec![format!("\"{}\"", stranger.rpc)];
    if is_mixed {
        log_nodes.extend(
            (1..stage.cluster.log.len()).map(|other| format!("\"{}\"", stage.cluster.log_rpc_advertised(other))),
        );
        rng.shuffle(&mut log_nodes);
    }
    let list = [("log-nodes", format!("[{}]", log_nodes.join(", ")))];
    let text: Vec<String> = stage.config(victim).lines().map(|line| changed(line, &list)).collect();
    stage.change_config(victim, &text.join("\n"));
    let said_before = stage.process(victim).output().len();
    stage.restart(victim).await?;
    let refused = says(stage.process(victim), said_before, &[&history, &stranger.history]).await;
    hold.wait().await;
    let others: Vec<usize> = BOTH.into_iter().filter(|&number| Node::Serving(number) != victim).collect();
    stage.serves(&others, SERVED_WITHIN).await?;
    let shown = served_history(&stage.http(victim)).await;
    stage.put_back(victim);
    stage.process(victim).kill();
    stage.start_node(victim);
    stage.ready(victim).await?;
    stranger.process.kill();
    if let Some(shown) = shown {
        return Err(format!(
            "{victim}, configured with log nodes of {history} and {}, serves {shown}",
            stranger.history
        ));
    }
    let said = stage.process(victim).output().split_off(said_before);
    if let Some(line) = said.lines().find(|line| line.contains("wiped")) {
        return Err(format!("{victim} gave up its index for a cluster that is not its own: {line}"));
    }
    refused?;
    Ok(format!("{victim}, {}: refused by both histories", list[0].1))
}

/// A second serving node under the name of one that runs, with a folder of its own.
pub(in crate::chaos::faults) async fn same_name(
    stage: &mut Stage,
    rng: &mut Rng,
    hold: &Hold,
) -> Result<String, String> {
    let victim = Node::Serving(rng.below(stage.cluster.serving.len()));
    let folder = stage.aside("same-name").join(format!("{:x}", rng.bits()));
    let what = format!("a second node called {victim}");
    let refusal = second_refused(stage, victim, Some(&folder), &what).await;
    hold.wait().await;
    let said = refusal?;
    if !said.lines().any(|line| line.contains(&victim.to_string()) && line.contains("in use")) {
        return Err(format!("{what} does not say that the name is in use: {}", end_of(&said)));
    }
    stage.check_alive(&[victim])?;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    Ok(format!("{victim}; the second one was refused"))
}

/// The history that a serving node serves, if it serves at all.
async fn served_history(http: &Http) -> Option<String> {
    let ready = http.get("/readyz").limit(QUESTION).send().await.ok()?;
    let status = http.get("/v1/status").limit(QUESTION).send().await.ok()?;
    (ready.status == 200 && status.status == 200).then(|| status.json()["history"].to_string())
}

/// A log node of another cluster listens where a member is expected.
pub(in crate::chaos::faults) async fn strange_member(
    stage: &mut Stage,
    rng: &mut Rng,
    hold: &Hold,
) -> Result<String, String> {
    let victim = stage.some_leader(rng).await;
    let Node::Log(number) = victim else { unreachable!("log nodes lead") };
    let others: Vec<usize> = (0..stage.cluster.log.len()).filter(|&other| other != number).collect();
    let said_before: Vec<usize> = others.iter().map(|&other| stage.cluster.log[other].output().len()).collect();
    stage.process(victim).kill();
    // Its HTTP is elsewhere: an append there would be another cluster's.
    let host = stage.host_of(victim);
    let started = Stranger::start(stage, &host, number, stage.cluster.log_rpc(number)).await;
    let mut stranger = match started {
        Ok(stranger) => stranger,
        Err(why) => {
            stage.start_node(victim);
            return Err(why);
        }
    };
    let served = stage.serves(&BOTH, SERVED_WITHIN).await;
    hold.wait().await;
    let processes = RefCell::new(&mut stage.cluster.log);
    let named = poll(
        &format!("a member to name {}, the history in place of {victim}", stranger.history),
        TOLD_WITHIN,
        || async {
            let processes = processes.borrow();
            let named = others.iter().zip(&said_before).find(|&(&other, &said_before)| {
                processes[other].output().split_off(said_before).contains(&stranger.history)
            });
            named.map(|(&other, _)| Node::Log(other)).ok_or_else(|| "nobody does".to_owned())
        },
    )
    .await;
    stranger.process.kill();
    stage.start_node(victim);
    served?;
    Ok(format!("{victim}; {} names it", named?))
}
