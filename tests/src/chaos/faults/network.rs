//! Faults of links between nodes. Clients reach every node all the time.

use super::Hold;
use crate::chaos::stage::{NODES, Node, Stage};
use crate::harness::Rng;

/// What a slow cable lets through in each direction: some waiting, and hardly anything.
const SLOW_RATES: [&str; 2] = ["512kbit", "96kbit"];

fn others(victim: Node) -> Vec<String> {
    NODES.iter().filter(|&&node| node != victim).map(Node::to_string).collect()
}

/// Cut off from all, or from the log nodes only: then serving nodes go on talking to a leader that nobody follows.
pub(super) async fn isolate(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    let whole = rng.below(2) == 0;
    let others: Vec<String> = others(victim).into_iter().filter(|name| whole || name.starts_with("log-")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    stage.links.cut(&victim.to_string(), &others)?;
    hold.wait().await;
    stage.links.heal()?;
    Ok(format!("{victim} from {}", if whole { "all" } else { "the log nodes" }))
}

/// One log node on one side, two on the other, serving nodes on either.
pub(super) async fn halves(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let mut nodes = NODES;
    rng.shuffle(&mut nodes[..3]);
    let alone = nodes[0];
    let (mut one, mut other) = (vec![alone.to_string()], vec![nodes[1].to_string(), nodes[2].to_string()]);
    for serving in &nodes[3..] {
        if rng.below(2) == 0 { one.push(serving.to_string()) } else { other.push(serving.to_string()) }
    }
    for name in &one {
        let across: Vec<&str> = other.iter().map(String::as_str).collect();
        stage.links.cut(name, &across)?;
    }
    hold.wait().await;
    stage.links.heal()?;
    Ok(format!("{} | {}", one.join(", "), other.join(", ")))
}

/// What the victim sends is lost, or what is sent to it.
pub(super) async fn one_way(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_leader(rng).await;
    let is_deaf = rng.below(2) == 0;
    let name = victim.to_string();
    for other in others(victim) {
        let (from, to) = if is_deaf { (&other, &name) } else { (&name, &other) };
        stage.links.cut_one_way(from, to)?;
    }
    hold.wait().await;
    stage.links.heal()?;
    Ok(format!("{name} {}", if is_deaf { "hears nobody" } else { "is not heard" }))
}

/// The whole cable, clients included.
pub(super) async fn slow_link(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await.to_string();
    let rate = *rng.pick(&SLOW_RATES);
    let hosts = stage.links.hosts()?;
    hosts.slow(&victim, rate)?;
    hold.wait().await;
    hosts.fast(&victim)?;
    Ok(format!("{victim}, {rate}"))
}
