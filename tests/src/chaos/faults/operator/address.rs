//! A log node that has another address in its own configuration only: a roll that is half done, a renumbered host, a typo.
//!
//! * It reaches its peers; they, and the serving nodes, look for it where it was.
//! * Expected: the others go on, whoever restarts, because a leader that nobody reaches does not stay leader; and somebody
//!   says which node is meant, and the address.

use super::{BOTH, SERVED_WITHIN, TOLD_WITHIN};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{NODES, Node, Stage};
use crate::harness::{Rng, poll};

/// How often all other log nodes are restarted at once, so that the moved one may win an election.
const ELECTIONS: usize = 2;

pub(in crate::chaos::faults) async fn moved(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_leader(rng).await;
    let Node::Log(number) = victim else { unreachable!("log nodes lead") };
    let host = stage.host_of(victim);
    let (rpc, http) = (stage.spare_address(&host), stage.http(victim).addr());
    let (listened, advertised) = (stage.cluster.log_rpc(number), stage.cluster.log_rpc_advertised(number));
    let text = stage.config(victim);
    let text = text.replace(&format!("rpc = \"{listened}\""), &format!("rpc = \"{rpc}\""));
    let text = text.replace(
        &format!("\"{}={advertised}/{}\"", number + 1, http.port()),
        &format!("\"{}={rpc}/{}\"", number + 1, http.port()),
    );
    let said_before: Vec<usize> = NODES.iter().map(|&node| stage.process(node).output().len()).collect();
    stage.change_config(victim, &text);
    stage.restart(victim).await?;
    let others: Vec<usize> = (0..stage.cluster.log.len()).filter(|&other| other != number).collect();
    let mut served = Ok(());
    for _ in 0..ELECTIONS {
        others.iter().for_each(|&other| stage.cluster.log[other].kill());
        others.iter().for_each(|&other| stage.cluster.start_log(other));
        served = stage.serves(&BOTH, SERVED_WITHIN).await;
        if served.is_err() {
            break;
        }
    }
    hold.wait().await;
    let told = is_named(stage, &rpc.to_string(), &said_before).await;
    stage.put_back(victim);
    stage.process(victim).kill();
    stage.start_node(victim);
    served.map_err(|why| format!("{victim} is at {rpc}, and nobody else knows: {why}"))?;
    Ok(format!("{victim} at {rpc}; {}", told?))
}

/// Waits until any node names the address, and says which did.
async fn is_named(stage: &mut Stage, addr: &str, said_before: &[usize]) -> Result<String, String> {
    let cluster = &stage.cluster;
    let processes = || cluster.log.iter().chain(&cluster.serving);
    poll(&format!("any node to name the address {addr}, which is not the configured one"), TOLD_WITHIN, || async {
        let naming = processes().zip(said_before).find_map(|(process, &said_before)| {
            let said = process.output().split_off(said_before);
            // That it starts at this address is no news.
            said.lines().any(|line| line.contains(addr) && !line.contains("starts")).then(|| process.name.clone())
        });
        naming.map(|name| format!("{name} names it")).ok_or_else(|| "nobody does".to_owned())
    })
    .await
}
