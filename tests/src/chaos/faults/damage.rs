//! Faults of single log files: a bit that is another one, an end that is missing. Done while the node is down.
//!
//! * Both are damage that can be told from a torn tail: there are later frames, or a later file. (The last frames of the
//!   last file are what a crash may tear: docs/formats.md "Recovery".)
//! * Whether the node serves what stood there, is held against the whole log afterwards.

use super::Hold;
use crate::chaos::stage::{Node, QUESTION, Stage};
use crate::harness::cluster::PATIENCE;
use crate::harness::files::{end_of_bytes, files, find, flip, open};
use crate::harness::{Rng, poll};
use std::path::{Path, PathBuf};

const LOG_FILE: &str = ".segment";

pub(super) async fn bit_flip(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let number = rng.below(stage.cluster.log.len());
    let victim = Node::Log(number);
    let (partition, payload) = rng.pick(&stage.old_payloads).clone();
    stage.process(victim).kill();
    let folder = stage.data(number);
    let places = find(&folder, payload.as_bytes());
    let place = places.into_iter().find(|(file, _)| is_log_file(file));
    let told = match &place {
        Some((file, at)) => {
            let at = at + rng.below(payload.len());
            flip(file, at);
            Ok(format!("{victim}, {} at {at}", shown(file, &folder)))
        }
        None => Err(format!("{victim} has {payload} of partition {partition} nowhere on its disk")),
    };
    hold.wait().await;
    stage.start_node(victim);
    told
}

/// The node must repair the file, or refuse to go on and say which file it is; then it gets the whole file back.
pub(super) async fn truncated_file(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let number = rng.below(stage.cluster.log.len());
    let victim = Node::Log(number);
    let folder = stage.data(number);
    if closed_files(&folder).is_empty() {
        // Each run begins files of its own.
        stage.process(victim).kill();
        stage.start_node(victim);
        stage.ready(victim).await?;
    }
    stage.process(victim).kill();
    let closed = closed_files(&folder);
    if closed.is_empty() {
        return Err(format!("{victim} has no file that could be cut"));
    }
    let file = rng.pick(&closed);
    let cutting = |error: std::io::Error| format!("cutting {}: {error}", file.display());
    let whole = std::fs::read(file).map_err(cutting)?;
    let length = rng.below(end_of_bytes(file)) as u64;
    open(file).set_len(length).map_err(cutting)?;
    let said_before = stage.process(victim).output().len();
    stage.start_node(victim);
    hold.wait().await;
    let told = ready_or_refused(stage, number, file, said_before).await;
    if !matches!(told, Ok(Met::Repaired)) {
        stage.process(victim).kill();
        std::fs::write(file, whole).map_err(cutting)?;
        stage.start_node(victim);
    }
    let how = match told? {
        Met::Repaired => "repaired",
        Met::Refused => "refused by name and put back",
    };
    Ok(format!("{victim}, {} cut to {length} bytes, {how}", shown(file, &folder)))
}

/// How a node met damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    Repaired,
    Refused,
}

async fn ready_or_refused(stage: &mut Stage, number: usize, file: &Path, said_before: usize) -> Result<Met, String> {
    let victim = Node::Log(number);
    let http = stage.http(victim);
    let file = file.display().to_string();
    let process = stage.process(victim);
    poll(&format!("{victim} to repair {file} or to refuse it by name"), PATIENCE, || async {
        let ready = http.get("/readyz").limit(QUESTION).send().await;
        if ready.is_ok_and(|answer| answer.status == 200) {
            return Ok(Met::Repaired);
        }
        let said = process.output().split_off(said_before);
        let is_told = said.lines().any(|line| line.contains("damaged") && line.contains(&file));
        if is_told { Ok(Met::Refused) } else { Err(said) }
    })
    .await
}

fn is_log_file(file: &Path) -> bool {
    file.to_string_lossy().ends_with(LOG_FILE)
}

/// All log files but the newest of each partition.
fn closed_files(folder: &Path) -> Vec<PathBuf> {
    let log_files: Vec<PathBuf> = files(folder).into_iter().filter(|file| is_log_file(file)).collect();
    let has_successor = |pair: &[PathBuf]| pair[0].parent() == pair[1].parent();
    log_files.windows(2).filter(|pair| has_successor(pair)).map(|pair| pair[0].clone()).collect()
}

fn shown(file: &Path, folder: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).display().to_string()
}
