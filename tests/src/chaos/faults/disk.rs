//! Faults of disks as a whole: full, and blank.

use super::Hold;
use crate::chaos::stage::{Node, QUESTION, Stage};
use crate::harness::cluster::PATIENCE;
use crate::harness::{Rng, poll};

/// What is left on a full disk, less than the reserve of a log node. Unit: bytes.
const LEFT: [u64; 3] = [0, 8 << 20, 48 << 20];

/// One disk, or both that can be filled: then writes are refused and reads go on.
pub(super) async fn full(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let mut numbers: Vec<usize> = stage.disks.keys().copied().collect();
    rng.shuffle(&mut numbers);
    numbers.truncate(1 + rng.below(numbers.len()));
    let left = *rng.pick(&LEFT);
    for number in &numbers {
        stage.disks[number].fill_but(left).map_err(|error| format!("filling a disk: {error}"))?;
    }
    hold.wait().await;
    for number in &numbers {
        stage.disks[number].free().map_err(|error| format!("freeing a disk: {error}"))?;
    }
    let names: Vec<String> = numbers.iter().map(|&number| Node::Log(number).to_string()).collect();
    Ok(format!("{} with {} MiB left", names.join(", "), left >> 20))
}

/// The node must be refused by its peers, say so, and never be ready. Then its folder comes back.
pub(super) async fn blank(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let number = rng.below(stage.cluster.log.len());
    let victim = Node::Log(number);
    let data = stage.data(number);
    let aside = data.with_extension("aside");
    let moving = |error: std::io::Error| format!("moving {}: {error}", data.display());
    stage.process(victim).kill();
    std::fs::rename(&data, &aside).map_err(moving)?;
    let said_before = stage.process(victim).output().len();
    stage.start_node(victim);
    let refused = refused_by_name(stage, number, said_before).await;
    hold.wait().await;
    let ready = stage.http(victim).get("/readyz").limit(QUESTION).send().await;
    stage.process(victim).kill();
    std::fs::remove_dir_all(&data).and_then(|()| std::fs::rename(&aside, &data)).map_err(moving)?;
    stage.start_node(victim);
    refused?;
    match ready {
        Ok(answer) if answer.status == 200 => Err(format!("{victim}, blank and refused, says that it is ready")),
        _ => Ok(format!("{victim}, refused")),
    }
}

/// Waits until a log node says that its peers know it with another folder.
async fn refused_by_name(stage: &mut Stage, number: usize, said_before: usize) -> Result<(), String> {
    let victim = Node::Log(number);
    let name = format!("node {}", number + 1);
    let process = stage.process(victim);
    poll(&format!("{victim} to be refused by name"), PATIENCE, || async {
        let said = process.output().split_off(said_before);
        let is_told = said.lines().any(|line| line.contains("folder") && line.contains(&name));
        if is_told { Ok(()) } else { Err(said) }
    })
    .await
}
