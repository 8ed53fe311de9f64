//! Lock files that somebody removed, as left-overs of a crash, while their node runs; and a second process on its folder.
//!
//! * Expected: the second one is refused all the same, and the first goes on.

use super::{BOTH, SERVED_WITHIN, end_of, second_refused};
use crate::chaos::faults::Hold;
use crate::chaos::stage::{Node, Stage};
use crate::harness::Rng;
use crate::harness::files::files;
use std::path::{Path, PathBuf};

pub(in crate::chaos::faults) async fn removed(stage: &mut Stage, rng: &mut Rng, hold: &Hold) -> Result<String, String> {
    let victim = match rng.below(3) {
        0 => Node::Serving(rng.below(stage.cluster.serving.len())),
        _ => stage.some_leader(rng).await,
    };
    let folder = match victim {
        Node::Log(number) => stage.data(number),
        Node::Serving(number) => stage.cluster.serving_data(number),
    };
    let removed = remove_locks(&folder)?;
    let what = format!("a second process on the folder of {victim}");
    let refusal = second_refused(stage, victim, None, &what).await;
    hold.wait().await;
    let said = refusal?;
    if !said.contains(&folder.display().to_string()) {
        return Err(format!("{what} does not name it: {}", end_of(&said)));
    }
    stage.check_alive(&[victim])?;
    stage.serves(&BOTH, SERVED_WITHIN).await?;
    Ok(format!("{victim}, {removed} lock files; the second process was refused"))
}

/// Removes what looks like a lock file; says how many there were.
fn remove_locks(folder: &Path) -> Result<usize, String> {
    let is_lock = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name == "lock" || name.ends_with(".lock") || name.ends_with(".pid")
    };
    let locks: Vec<PathBuf> = files(folder).into_iter().filter(is_lock).collect();
    for lock in &locks {
        std::fs::remove_file(lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    }
    Ok(locks.len())
}
