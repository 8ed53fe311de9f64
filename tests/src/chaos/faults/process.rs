//! Faults of processes: killed, standing still, restarted.

use super::Hold;
use crate::chaos::stage::{NODES, Stage};
use crate::harness::Rng;

pub(super) async fn kill(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    stage.process(victim).kill();
    hold.wait().await;
    stage.start_node(victim);
    Ok(victim.to_string())
}

pub(super) async fn pause(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = stage.some_victim(rng).await;
    stage.process(victim).pause();
    hold.wait().await;
    stage.process(victim).resume();
    Ok(victim.to_string())
}

/// Every node in turn; the next one only when the one before is ready, as an operator would.
pub(super) async fn rolling_restart(stage: &mut Stage, rng: &mut Rng) -> Result<String, String> {
    let mut nodes = NODES;
    rng.shuffle(&mut nodes);
    for node in nodes {
        stage.restart(node).await?;
        stage.ready(node).await?;
    }
    Ok(nodes.map(|node| node.to_string()).join(", "))
}

pub(super) async fn all_at_once(stage: &mut Stage, hold: &Hold) -> Result<String, String> {
    NODES.iter().for_each(|&node| stage.process(node).kill());
    hold.wait().await;
    stage.cluster.start_all();
    Ok("every node".to_owned())
}
